"""What happens to the hosts, and what a run makes of it."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from metaug_ray.runtime.run_folder import checkpoint_name
from tests.hosts.world import Run, World, logged_step, steps_of
from tests.integration.jobs import logged_losses


@dataclass
class Outcome:
    """Of a scenario."""

    said: str = ""
    """The first line that tells of it."""
    noticed: float | None = None
    """Seconds until that line came."""
    trains: float | None = None
    """Seconds until a step was made that had not been made before."""
    twice: int = 0
    """Steps that were made twice."""
    end: str = ""


def nothing(world: World, run: Run) -> None:
    """The undisturbed run."""


def host_lost(world: World, run: Run) -> None:
    """All processes of a host, which starts anew ten seconds later."""
    world.hosts[2].kill_all()
    time.sleep(10)
    world.start_ray(world.hosts[2])


def elastic(world: World, run: Run) -> None:
    """The undisturbed run of an elastic one."""


def elastic_host_lost(world: World, run: Run) -> None:
    """All processes of a host, which comes back later: meanwhile the run goes on with two workers. Ray tries for a
    minute to start as many as there were."""
    world.hosts[2].kill_all()
    time.sleep(150)
    world.start_ray(world.hosts[2])


def link_cut_short(world: World, run: Run) -> None:
    _cut(world, 20)


def link_cut_long(world: World, run: Run) -> None:
    """Longer than Ray's patience: the host's Ray ends, and is started anew."""
    _cut(world, 90)
    world.hosts[2].kill_all()
    world.start_ray(world.hosts[2])


def _cut(world: World, seconds: float) -> None:
    world.hosts[2].cut()
    time.sleep(seconds)
    world.hosts[2].mend()


def head_lost(world: World, run: Run) -> None:
    """All of Ray on the first host, where the command runs too; the whole cluster is started anew 20 seconds later."""
    world.hosts[0].kill_all(but="imagenet_resnet50.py")
    time.sleep(20)
    for host in world.hosts[1:]:
        host.kill_all()
    for host in world.hosts:
        world.start_ray(host)


def mlflow_away(world: World, run: Run) -> None:
    world.services.stop_mlflow()
    time.sleep(120)
    world.services.start_mlflow()


def database_restarted(world: World, run: Run) -> None:
    world.services.stop_database()
    time.sleep(5)
    world.services.start_database()


def storage_full(world: World, run: Run) -> None:
    """For a minute there is no room left on the shared folder."""
    filler = world.shared / "filler"
    with filler.open("wb") as file:
        try:
            while True:
                file.write(bytes(2**16))
                file.flush()
        except OSError:
            pass
    time.sleep(60)
    filler.unlink()


SCENARIOS: Final[dict[str, Callable[[World, Run], None]]] = {
    function.__name__: function
    for function in (
        *(nothing, host_lost, link_cut_short, link_cut_long, head_lost, mlflow_away, database_restarted, storage_full),
        *(elastic, elastic_host_lost),
    )
}


def play(name: str, world: World) -> Outcome:
    """One scenario, at step 50 of a run of its own, to that run's end."""
    world.wait_for_nodes()
    outcome, run = Outcome(), world.run(name)
    try:
        run.wait(lambda: run.step() >= 50, "step 50")
        began, before = time.monotonic(), run.step()
        SCENARIOS[name](world, run)
        if name not in ("nothing", "elastic"):
            run.wait(lambda: run.step(began) > before + 1 or run.process.poll() is not None, "a new step")
        run.process.wait(900)
        time.sleep(0.5)
        _measure(outcome, run, began, before)
        if run.process.returncode:
            outcome.end = f"exit status {run.process.returncode}: {run.lines[-1][1]}"
        else:
            outcome.end = _compared(name, world)
            if name == "elastic_host_lost" and (seen := _workers_seen(run)) != {2, 3}:
                outcome.end = f"it trained with {sorted(seen)} workers, not with 3, 2 and 3"
    except AssertionError as error:
        outcome.end = str(error).splitlines()[0][:300]
    finally:
        (world.folder / f"{name}.log").write_text("\n".join(f"{when:.2f} {line}" for when, line in run.lines))
        world.hosts[0].kill_all_named("imagenet_resnet50.py")
    return outcome


_FIRST: Final = 1e-5
_MEAN: Final = 0.05
"""Of training's making from the last digit on, over some hundred steps."""
_USUAL: Final = re.compile(
    r"images/s|checkpoint_\d+ is written|kNN|View (run|experiment)|last checkpoint|MLflow run|is finished"
)


def _measure(outcome: Outcome, run: Run, began: float, before: int) -> None:
    reached = before
    for when, line in run.lines:
        if (seconds := when - began) <= 0:
            continue
        if not _USUAL.search(line) and outcome.noticed is None and seconds < 400:
            outcome.noticed, outcome.said = seconds, line
        step = logged_step(line) or 0
        if step > before + 1 and outcome.trains is None:
            outcome.trains = seconds
        reached = max(reached, step)
        if (again := re.search(r"goes on from step ([\d,]+)", line)) is not None:
            outcome.twice += max(0, reached - int(again[1].replace(",", "")))


def _compared(name: str, world: World) -> str:
    """How far the run's losses are from those of the undisturbed one.

    From three workers on, they differ in their last digit from the first step of a new start on: DDP orders its buckets
    after its first step, and in another bucket three numbers are added in another order. Training lets that grow.
    """
    last = world.last_checkpoint(name)
    steps = steps_of(name)
    if last.name != checkpoint_name(steps):
        return f"the last checkpoint is {last.name}"
    undisturbed = "elastic" if name.startswith("elastic") else "nothing"
    theirs, ours = (logged_losses(world.shared / run) for run in (undisturbed, name))
    if list(ours) != list(range(1, steps + 1)):
        return "steps are missing in the run's journal, or there twice"
    apart = [abs(ours[step] - theirs[step]) / theirs[step] for step in theirs]
    first = next((value for value in apart if value), 0.0)
    mean = sum(apart) / len(apart)
    said = f"losses apart by {first:.0e} at first, {mean:.0e} in the mean"
    # Written so that what is no number is a fault.
    return f"finished; {said}" if first < _FIRST and mean < _MEAN else f"DIFFERENT: {said}"


def _workers_seen(run: Run) -> set[int]:
    """Numbers of workers that the lines of progress tell of: images/s of all, and of each."""
    found = (re.search(r"([\d,]+) images/s \(([\d,]+) each\)", line) for _, line in run.lines)
    pairs = ((float(match[1].replace(",", "")), float(match[2].replace(",", ""))) for match in found if match)
    return {round(of_all / each) for of_all, each in pairs if each >= 3}
