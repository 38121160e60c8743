"""Runs side by side on one device, each process one at a time; what is done is kept in a file, line by line."""

import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import torch

from jobs.studies.worth.images import Parts
from jobs.studies.worth.run import Outcome, run
from jobs.studies.worth.stages import Done, Results, Task, tasks
from metaug_ray.config.sweep import SweepSettings
from metaug_ray.errors import UserError
from metaug_ray.runtime.device import prepare_device
from metaug_ray.runtime.words import first_line
from metaug_ray.training.loop import StoppedError
from metaug_ray.tuning.points import TrialRun

_KEY: Final = ("stage", "group", "point", "seed", "purpose")
_parts: Parts | None = None
"""Of this process."""


class Ledger:
    """What is done, kept in a file of JSON lines.

    Args:
        file: that is added to; what it holds is not done again.

    Raises:
        UserError: a line is none of the study's.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.results: dict[str, list[Done]] = {}
        self._keys: set[tuple[Any, ...]] = set()
        self._by_fingerprint: dict[str, dict[str, Any]] = {}
        if file.exists():
            for number, line in enumerate(file.read_text().splitlines(), 1):
                try:
                    self._take(json.loads(line))
                except (ValueError, KeyError, TypeError) as error:
                    raise UserError(
                        f"{file} line {number}: is no result of this study ({first_line(error)}); remove that line, "
                        "and its run is made again"
                    ) from error

    def add(self, task: Task, outcome: Outcome, failure: str, device: str) -> None:
        """Keep what became of a task."""
        kept = _named(task) | {
            "values": task.values,
            "fingerprint": task.fingerprint,
            "failure": failure,
            "device": device,
        }
        self._keep(kept | asdict(outcome))

    def borrow(self, task: Task) -> bool:
        """Take over what another stage's run with the same settings gave, if there is one."""
        kept = self._by_fingerprint.get(task.fingerprint)
        if kept is not None:
            self._keep(kept | _named(task) | {"values": task.values, "seconds": 0.0, "step_seconds": 0.0})
        return kept is not None

    def _keep(self, kept: dict[str, Any]) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(kept) + "\n")
        self._take(kept)

    def has(self, task: Task) -> bool:
        """Whether a task is done."""
        return task.key in self._keys

    def _take(self, kept: dict[str, Any]) -> None:
        name = f"{kept['stage']}-{kept['group']}-{kept['point']}-{kept['seed']}"
        made = TrialRun(
            name,
            kept["group"],
            kept["point"],
            kept["seed"],
            kept["purpose"],
            "failed" if kept["failure"] else "finished",
            kept["failure"],
            tuple((epoch, value) for epoch, value in kept["series"]),
            kept["seconds"] / 3600,
            kept["step_seconds"] / 3600,
            kept["judged"],
        )
        self._keys.add(tuple(kept[name] for name in _KEY))
        self._by_fingerprint.setdefault(kept["fingerprint"], kept)
        self.results.setdefault(kept["stage"], []).append(Done(made, kept["values"]))


def _named(task: Task) -> dict[str, Any]:
    """A task's key, by names."""
    return dict(zip(_KEY, task.key, strict=True))


def work_off(
    stages: dict[str, Callable[[Results], SweepSettings | None]],
    ledger: Ledger,
    images: Path,
    device: torch.device,
    *,
    processes: int,
    seconds: float,
    names: Sequence[str],
) -> bool:
    """Run what the stages want and the ledger has not, in their order.

    Args:
        stages: by name.
        ledger: of what is done.
        images: file of the images.
        device: of all processes.
        processes: runs at a time.
        seconds: after which no further run begins.
        names: of the stages that are wanted.

    Returns:
        Whether all is done.
    """
    began, made = time.monotonic(), 0
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    with ProcessPoolExecutor(processes, get_context("spawn"), _open, (images, device)) as pool:
        running: dict[Future[tuple[Outcome, str]], Task] = {}
        while True:
            late, borrowed = time.monotonic() - began > seconds, False
            under_way = {task.key for task in running.values()}
            for task in [] if late else _to_do(stages, ledger, names):
                if len(running) == processes:
                    break
                if task.key in under_way:
                    continue
                if ledger.borrow(task):
                    borrowed = True
                else:
                    running[pool.submit(_work, task, device)] = task
            if borrowed and not running:
                continue
            if not running:
                return not late and all(stages[name](ledger.results) is not None for name in names)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                # A run that diverges is a result; what else fails ends the study, and is no result.
                outcome, failure = future.result()
                ledger.add(task, outcome, failure, name)
                made += 1
                knn = outcome.series[-1][1] if outcome.series else float("nan")
                told = failure or f"kNN {100 * knn:.1f} %"
                passed = time.monotonic() - began
                print(
                    f"{passed:6.0f} s  {made:4} {task.stage} {task.purpose} {task.group} #{task.point} "
                    f"seed {task.seed}: {told}, {outcome.seconds:.1f} s ({outcome.step_seconds:.1f} s of steps)",
                    file=sys.stderr,
                    flush=True,
                )


def _to_do(
    stages: dict[str, Callable[[Results], SweepSettings | None]], ledger: Ledger, names: Sequence[str]
) -> list[Task]:
    found = []
    for name, build in stages.items():
        sweep = build(ledger.results)
        if sweep is not None and name in names:
            found += [t for t in tasks(name, sweep, ledger.results.get(name, ())) if not ledger.has(t)]
    return found


def _open(images: Path, device: torch.device) -> None:
    global _parts
    # Without a traceback of each process.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    prepare_device(device, 1, tune=True)
    torch.set_num_threads(1)
    _parts = Parts.read(images, device)


def _work(task: Task, device: torch.device) -> tuple[Outcome, str]:
    """What a run gave, and why it failed if it did."""
    if _parts is None:
        raise RuntimeError("the process was not opened")
    try:
        return run(task.settings, _parts, device, judged=task.purpose == "compare"), ""
    except StoppedError as error:
        return Outcome(), str(error)
