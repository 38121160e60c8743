"""When checkpoints are due: by steps, by the clock, and as machines are about to be taken away."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from metaug_ray.training import checkpoint_clock
from metaug_ray.training.checkpoint_clock import CheckpointClock
from tests.ranks import run_ranks
from tests.training.small import small_settings

CPU = torch.device("cpu")


class Time:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(checkpoint_clock, "time", clock)
    return clock


def due_steps(clock: CheckpointClock, time: Time, seconds: float, steps: int, first: int = 1) -> list[int]:
    """Steps after which one is due, of which each takes so many seconds."""
    found = []
    for step in range(first, first + steps):
        time.now += seconds
        if clock.due(step):
            found.append(step)
            clock.restart()
    return found


def settings(**checkpoint: Any) -> Any:
    return small_settings(Path("/x.beton"), checkpoint={"every_steps": None, "every_minutes": None} | checkpoint)


def test_by_steps(time: Time) -> None:
    assert due_steps(CheckpointClock(settings(every_steps=4), CPU, None), time, 1.0, 10) == [4, 8]


@pytest.mark.parametrize("seconds", [0.01, 0.3, 5.0, 100.0])
def test_by_the_clock_within_seconds_however_long_a_step_is(time: Time, seconds: float) -> None:
    clock = CheckpointClock(settings(every_minutes=5), CPU, None)
    steps = int(1000 / seconds)
    found = due_steps(clock, time, seconds, steps)
    assert 2 <= len(found) <= 3
    assert all(300 <= (later - step) * seconds <= 300 + 2 * max(2, seconds) for step, later in pairwise(found))


def test_what_is_about_to_be_taken_away_makes_one_due_once(time: Time) -> None:
    away: list[object] = [None]
    clock = CheckpointClock(settings(every_steps=1000), CPU, None, lambda: away[0])
    assert due_steps(clock, time, 0.1, 100) == []
    away[0] = ("node-a",)
    (found,) = due_steps(clock, time, 0.1, 100, 101)
    assert found <= 121  # two seconds
    away[0] = ("node-a", "node-b")
    assert len(due_steps(clock, time, 0.1, 100, 201)) == 1


def _looked(rank: int) -> list[tuple[int, bool]]:
    """Two ranks, of which the second is slower and would never ask."""
    times = Time()
    checkpoint_clock.time = times  # type: ignore[attr-defined]
    asked: list[int] = []

    def notice() -> object:
        together = torch.tensor([float(times.now > 5)])
        dist.all_reduce(together, dist.ReduceOp.MAX)
        asked.append(step)
        return "away" if together.item() else None

    clock = CheckpointClock(settings(every_steps=1000), CPU, None, notice)
    found = []
    for step in range(1, 81):
        times.now += 0.1 + 0.3 * rank
        found.append((step, clock.due(step)))
    return [(step, due) for step, due in found if due or step in asked]


def test_ranks_agree_on_when_they_look_and_what_they_see(tmp_path: Path) -> None:
    first, second = run_ranks(2, tmp_path, _looked)
    assert first == second
    assert sum(due for _, due in first) == 1
    assert len(first) > 3
