"""A round: one run, a few kills, and its end against that of a run that lost nothing."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from metaug_ray.config import PretrainSettings
from metaug_ray.runtime.run_folder import RunFolder, checkpoint_name
from tests.chaos.cluster import FAST, Cluster
from tests.chaos.kills import GIVEN_AGAIN, Kill, Scene
from tests.integration.jobs import Job, logged_losses, train_job
from tests.ranks import run_ranks
from tests.training.small import check_same, losses, plain_metrics, small_settings, tensors_of

STEPS_PER_EPOCH = 6
_LONGEST = 900.0
"""Seconds from one thing that happens to the next, after which a run counts as lost."""


@dataclass(frozen=True)
class Twin:
    """The same run under plain PyTorch, two processes, which lost nothing."""

    losses: dict[int, float]
    checkpoint: Path

    @property
    def steps(self) -> int:
        return len(self.losses)


def make_twin(beton: Path, folder: Path, epochs: int) -> Twin:
    settings = chaos_settings(beton, "twin", folder, epochs)
    seen = run_ranks(2, folder / "ranks", plain_metrics, settings, folder)[0]
    return Twin(losses(seen), folder / checkpoint_name(epochs * STEPS_PER_EPOCH))


def chaos_settings(
    beton: Path, name: str, folder: Path, epochs: int, address: str | None = None, **compute: Any
) -> PretrainSettings:
    return small_settings(
        beton,
        name=name,
        training={"epochs": epochs},
        storage=str(folder),
        checkpoint={"grace_seconds": 60},
        compute={
            "address": address,
            "max_driver_restarts": 100,
            "max_failures": 100,
            "max_failures_in_row": 100,
            **compute,
        },
        tracking={"uri": f"sqlite:///{folder}/mlflow.db"},
    )


@dataclass
class Round:
    """What became of one."""

    seed: int
    kills: list[str] = field(default_factory=list)
    given_again: int = 0
    seconds: float = 0.0
    fault: str = ""


def play(
    seed: int,
    kinds: Sequence[Kill],
    count: int,
    twin: Twin,
    beton: Path,
    folder: Path,
    cluster: Cluster | None,
    say: Callable[[str], None],
) -> Round:
    """Run to the end whatever is killed meanwhile: `count` things of `kinds`, drawn by the seed with their moments."""
    draws = random.Random(seed)
    chosen = list(kinds) if len(kinds) == count else [draws.choice(kinds) for _ in range(count)]
    moments = sorted(draws.sample(range(3, twin.steps - 3), count))
    played, began = Round(seed), time.monotonic()
    name, epochs = f"round{seed}", twin.steps // STEPS_PER_EPOCH
    address = None if cluster is None else cluster.address
    settings = chaos_settings(beton, name, folder, epochs, address)
    environment = FAST | ({"RAY_ADDRESS": "local"} if cluster is None else {})

    def start() -> Job:
        return train_job(settings, folder / "jobs", environment=environment)

    job = start()
    try:
        for kill, moment in zip(chosen, moments, strict=True):
            _reach(job, moment)
            time.sleep(draws.random())
            if _made(kill, Scene(job, cluster, folder / name, draws)):
                played.kills.append(f"{kill.__name__} at step {job.step()}")
                say(f"  step {job.step()}: {kill.__name__}")
            if kill in GIVEN_AGAIN:
                job.finish()
                played.given_again += 1
                job = start()
        status = _end(job)
        if status:
            played.fault = f"LOST: exit status {status}: {' / '.join(job.lines[-3:])}"
        else:
            _compare(folder / name, twin, folder)
    except AssertionError as error:
        played.fault = f"DIFFERENT: {str(error).strip().splitlines()[0] if str(error).strip() else error!r}"
    finally:
        (folder / f"{name}.log").write_text(job.output)
        if job.process.poll() is None:
            job.process.kill()
        job.process.wait()
    played.seconds = time.monotonic() - began
    return played


def _made(kill: Kill, scene: Scene) -> bool:
    """Make a kill, once there is something to kill; False where the job is over before."""
    end = time.monotonic() + 60
    while scene.job.process.poll() is None:
        if kill(scene):
            return True
        assert time.monotonic() < end, f"{kill.__name__} found nothing to kill"
        time.sleep(0.1)
    return False


def _reach(job: Job, step: int) -> None:
    """Wait until a step was logged since the last thing that happened, or the command is over."""
    seen, end = len(job.lines), time.monotonic() + _LONGEST
    while job.process.poll() is None:
        assert time.monotonic() < end, f"no step {step} within {_LONGEST:.0f} s: {job.lines[-1:]}"
        fresh = any("step " in line and "images/s" in line for line in job.lines[seen:])
        if fresh and job.step() >= step:
            return
        time.sleep(0.02)


def _end(job: Job) -> int:
    end = time.monotonic() + _LONGEST
    while job.process.poll() is None and time.monotonic() < end:
        time.sleep(0.1)
    assert job.process.poll() is not None, f"no end within {_LONGEST:.0f} s: {job.lines[-1:]}"
    return job.finish()


def _compare(run: Path, twin: Twin, folder: Path) -> None:
    found = logged_losses(run)
    assert list(found) == list(range(1, twin.steps + 1)), "steps are missing in MLflow's journal, or there twice"
    assert found == pytest.approx(twin.losses, rel=1e-6), "other losses"
    last = RunFolder(str(folder), run.name).checkpoints()[-1]
    assert last == checkpoint_name(twin.steps), f"the last checkpoint is {last}"
    check_same(tensors_of(run / last, folder / "ours.pt"), tensors_of(twin.checkpoint, folder / "theirs.pt"))
