"""What a sweep has tried: points of its space, and their runs. All that is reported and drawn comes from these.

A *group* is a variant that is searched by itself. A *point* is one setting of a group's parameters, and has a *run* of
the main job for each seed; its value is the mean of theirs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

RunState = Literal["pending", "running", "finished", "stopped", "failed"]
"""`stopped`: ended early, as it was behind. What a limit or a person interrupts is `pending` again."""

ENDED: Final[tuple[RunState, ...]] = ("finished", "stopped", "failed")
"""States of runs to which nothing more happens."""

Purpose = Literal["search", "compare", "refit"]
"""What a run is for: its point's value; the final comparison, on a new seed; or the encoder that is kept."""

_FEWEST: Final = 8
"""Points without which nothing is said of what mattered in them."""


@dataclass(frozen=True)
class TrialRun:
    """One run of the main job.

    Attributes:
        name: of the run, by which `run:NAME` finds its encoder.
        group: of its point.
        point: number of its point within the group.
        seed: of the run.
        purpose: what it is for.
        state: what became of it.
        reason: why it was stopped, failed or waits.
        series: the metric that is searched by, after so many epochs: pairs of both, rising.
        hours: of wall clock, over all its starts.
        step_hours: of these, those that went into its steps.
        judged: accuracies by evaluations, as `judge/knn/top1`, `judge/linear/top1`, `seen/linear/top1`.
        mlflow_run: its MLflow run, once there is one.
    """

    name: str
    group: str
    point: int
    seed: int
    purpose: Purpose = "search"
    state: RunState = "pending"
    reason: str = ""
    series: tuple[tuple[float, float], ...] = ()
    hours: float = 0.0
    step_hours: float = 0.0
    judged: Mapping[str, float] = field(default_factory=dict)
    mlflow_run: str | None = None

    @property
    def last(self) -> float:
        """The last value of the series; NaN before the first."""
        return self.series[-1][1] if self.series else math.nan

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self.state in ENDED

    @property
    def epochs(self) -> float:
        """After which it was measured last."""
        return self.series[-1][0] if self.series else 0.0


@dataclass(frozen=True)
class Point:
    """One setting, and its runs.

    Attributes:
        group: that it belongs to; empty where the sweep has none.
        number: of the point within the group, in the order in which they were drawn.
        values: of the parameters that are searched, by dotted name; those whose condition does not hold are absent.
        runs: one for each seed of the search; none where there is nothing to choose.
    """

    group: str
    number: int
    values: Mapping[str, Any]
    runs: Sequence[TrialRun]

    @property
    def finished(self) -> bool:
        """Whether all its runs trained to their end."""
        return bool(self.runs) and all(run.state == "finished" for run in self.runs)

    @property
    def value(self) -> float:
        """Mean of its runs' last values; NaN unless all of them are finished: what was stopped early is not compared
        with what was not."""
        return math.fsum(run.last for run in self.runs) / len(self.runs) if self.finished else math.nan

    def value_after(self, epoch: int) -> float:
        """Mean of its runs' values after an epoch; NaN before all of them have been measured there."""
        values = [next((value for at, value in run.series if round(at) == epoch), math.nan) for run in self.runs]
        return math.fsum(values) / len(values) if values else math.nan


def of_group(points: Sequence[Point], group: str) -> list[Point]:
    """The points of one group."""
    return [point for point in points if point.group == group]


def runs_of(points: Sequence[Point]) -> list[TrialRun]:
    """All runs of points."""
    return [run for point in points for run in point.runs]


def common_epoch(points: Sequence[Point]) -> int | None:
    """The last epoch after which half of the points, and enough to say something of them, were measured; None without.

    Where runs are stopped early, those that finished are a selection: what decided who survived is not seen in them.
    """
    epochs = {round(at) for run in runs_of(points) for at, _ in run.series}
    enough = max(_FEWEST, len(points) / 2)
    for epoch in sorted(epochs, reverse=True):
        if sum(not math.isnan(point.value_after(epoch)) for point in points) >= enough:
            return epoch
    return None


def best_point(points: Sequence[Point]) -> Point | None:
    """The finished point of greatest value; of several the one that was drawn first. None where none is finished.

    Where there is nothing to choose, points have no runs, and the first is the best.
    """
    if points and not any(point.runs for point in points):
        return points[0]
    finished = [point for point in points if not math.isnan(point.value)]
    return max(finished, key=lambda point: (point.value, -point.number), default=None)
