"""A sweep while it runs: a table in the terminal that updates in place, or lines where there is no terminal."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from metaug_ray.config.sweep import SweepSettings
from metaug_ray.runtime.log import log_moved
from metaug_ray.runtime.words import counted, duration
from metaug_ray.tuning.points import Point, RunState, TrialRun, best_point, of_group, runs_of
from metaug_ray.tuning.scales import measured, short_names, value_text
from metaug_ray.tuning.time_left import seconds_left

_SILENCE: Final = 60.0
"""Seconds without news after which a line says that there is none, where there is no terminal."""
_ROWS: Final = 12
"""Lines of a table that are shown at most, where a terminal is high enough."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Now:
    """What was told last, and when."""

    points: Sequence[Point]
    runs: Sequence[TrialRun]
    """those that have begun"""
    to_come: int
    progress: Mapping[str, float]
    seconds: float
    left: float | None
    at: float

    def values(self, run: TrialRun) -> Mapping[str, object]:
        """The parameters of a run."""
        key = (run.group, run.point)
        return next((point.values for point in self.points if (point.group, point.number) == key), {})


class LiveView:
    """Shows a sweep for as long as it is entered. What is logged meanwhile goes above the table.

    Args:
        settings: of the sweep.
        console: where it is shown; default: standard output.
    """

    def __init__(self, settings: SweepSettings, console: Console | None = None) -> None:
        self._settings = settings
        self._console = console or Console()
        self._metric = settings.run.health.best_metric
        self._short = short_names(list(settings.space))
        self._now: _Now | None = None
        self._said = time.monotonic()
        self._inner = ExitStack()

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._console.is_dumb_terminal:
            out, err = sys.stdout, sys.stderr
            self._inner.enter_context(Live(console=self._console, get_renderable=self._shown, refresh_per_second=1))
            # The standard streams are now those that print above the table; handlers hold the old ones.
            self._inner.enter_context(log_moved([(out, sys.stdout), (err, sys.stderr)]))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner.close()

    def update(
        self,
        points: Sequence[Point],
        finals: Sequence[TrialRun],
        to_come: int,
        concurrency: int,
        progress: Mapping[str, float],
        seconds: float,
    ) -> None:
        """Take what there is now, and log what has become of runs since the last time.

        Args:
            points: of the search.
            finals: runs after it.
            to_come: number of runs that have not begun.
            concurrency: runs at a time.
            progress: epochs made by the runs that run, by name.
            seconds: that the sweep has taken, over all its starts.
        """
        runs = [run for run in [*runs_of(points), *finals] if run.state != "pending"]
        left = seconds_left(runs, to_come, concurrency)
        before = self._now
        self._now = now = _Now(tuple(points), runs, to_come, dict(progress), seconds, left, time.monotonic())
        lines = list(self._news(before, now))
        if not lines and not self._console.is_terminal and time.monotonic() - self._said > _SILENCE:
            lines = [self._progress(run, now) for run in now.runs if run.state == "running"][:_ROWS]
        for line in lines:
            _log.info("%s", line)
        if lines:
            self._said = time.monotonic()
            _log.info("%s; %s", ", ".join(f"{count} {state}" for state, count in _states(now)), _times(now))

    def _news(self, before: _Now | None, now: _Now) -> Iterator[str]:
        """What has changed, line by line. What had ended before the sweep went on is no news."""
        known = {run.name: run.state for run in before.runs} if before else {}
        for run in now.runs:
            if run.state == known.get(run.name) or (before is None and run.state != "running"):
                continue
            yield self._told(run, now)
        if before is None:
            return
        for group in self._settings.variants:
            old = best_point(of_group(before.points, group))
            new = best_point(of_group(now.points, group))
            if new is not None and (old is None or new.number != old.number):
                where = f" of {group}" if group else ""
                yield f"best point{where} so far: {new.number}, {self._value(new.value)} with {self._words(new.values)}"

    def _progress(self, run: TrialRun, now: _Now) -> str:
        value = f", {self._value(run.last)}" if run.series else ""
        return f"run {run.name}: epoch {now.progress.get(run.name, run.epochs):.1f}{value}"

    def _told(self, run: TrialRun, now: _Now) -> str:
        value = f" with {self._value(run.last)}" if run.series else ""
        reason = f": {run.reason}" if run.reason else ""
        if run.state == "running":
            return f"run {run.name} started: {self._words(now.values(run))}"
        if run.state == "finished":
            return f"run {run.name} finished{value} after {duration(3600 * run.hours)}"
        ended = "was stopped early" if run.state == "stopped" else "failed"
        return f"run {run.name} {ended}{value} after {counted(run.epochs, 'epoch')}{reason}"

    def _value(self, value: float) -> str:
        return f"{self._metric} {measured(value)}"

    def _words(self, values: Mapping[str, object]) -> str:
        return ", ".join(f"{self._short.get(name, name)} {value_text(value)}" for name, value in values.items()) or (
            "no parameters"
        )

    # -- the table

    def _shown(self) -> RenderableType:
        now = self._now
        if now is None:
            return Text("")
        head = Text(f"sweep {self._settings.run.name}: ", style="bold")
        for number, (state, count) in enumerate(_states(now)):
            head.append(f"{', ' if number else ''}{count} {state}", style=_STYLES[state])
        times = Text(_times(now, time.monotonic() - now.at))
        return Group(head, times, *self._running(now), *self._best(now))

    def _running(self, now: _Now) -> Iterator[RenderableType]:
        running = [run for run in now.runs if run.state == "running"]
        room = max(1, min(_ROWS, self._console.height - len(self._settings.variants) - 9))
        table = _table("running", "epoch", self._metric, "with")
        epochs = self._settings.run.training.epochs
        for run in running[:room]:
            of = epochs if run.purpose != "refit" or self._settings.refit is None else self._settings.refit.epochs
            made = f"{now.progress.get(run.name, run.epochs):.1f} / {of}"
            table.add_row(Text(run.name), made, measured(run.last), Text(self._words(now.values(run))))
        if running:
            yield table
        if len(running) > room:
            yield Text(f"and {len(running) - room} more")

    def _best(self, now: _Now) -> Iterator[RenderableType]:
        table = _table("best of" if self._settings.groups else "best", "point", self._metric, "with")
        for group in self._settings.variants:
            best = best_point(of_group(now.points, group))
            if best is not None:
                table.add_row(Text(group), str(best.number), measured(best.value), Text(self._words(best.values)))
        if table.row_count:
            yield table


_STYLES: Final[Mapping[RunState, str]] = {
    "finished": "green",
    "running": "cyan",
    "stopped": "yellow",
    "failed": "red",
    "pending": "dim",
}


def _states(now: _Now) -> list[tuple[RunState, int]]:
    """How many runs are in each state; those to come are pending."""
    counts = Counter(run.state for run in now.runs)
    counts["pending"] = now.to_come
    return [(state, counts[state]) for state in _STYLES if counts[state] or state in ("finished", "pending")]


def _times(now: _Now, since: float = 0.0) -> str:
    """Time used and left, some seconds after they were told."""
    used = f"{duration(now.seconds + since)} used"
    if now.left is None:
        return f"{used}, time left not known before a run has ended"
    return f"{used}, about {duration(max(0.0, now.left - since))} left"


def _table(*header: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(Text(name), no_wrap=name != "with", justify="right" if name == "epoch" else "left")
    return table
