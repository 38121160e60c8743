"""All that a sweep has tried and has still to try, kept in its folder: what runs next, and what became of it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.config.sweep import SweepSettings
from metaug_ray.names import slug
from metaug_ray.runtime.stored_folder import StoredFolder
from metaug_ray.training.resume import why_not_as_long
from metaug_ray.tuning.points import Point, Purpose, RunState, TrialRun, best_point, of_group, runs_of
from metaug_ray.tuning.search import draw, is_behind
from metaug_ray.tuning.space import Space, Values, spaces, with_values

_FILE: Final = "trials.json"
_REDRAWS: Final = 50
"""Draws after which a point that was tried before is tried again."""


class Trials:
    """Points and runs of a sweep. Each change is in the folder before it takes effect.

    What ran when an earlier start of the sweep was killed comes first again, and goes on from its checkpoint.

    Args:
        settings: of the sweep.
        folder: of the sweep, on the storage of all runs.
        looking: only look at what there is, as it is: another process may be at it.
    """

    def __init__(self, settings: SweepSettings, folder: StoredFolder, *, looking: bool = False) -> None:
        self._settings, self._folder = settings, folder
        self.spaces: dict[str, Space] = spaces(settings)
        self._cells = {
            group: [(cell, self._wanted_in(space, cell)) for cell in space.cells()]
            for group, space in self.spaces.items()
        }
        """Values of the grids by group, and how many points each combination gets."""
        choosing = any(self._wanted(group) > 1 for group in self.spaces)
        # Where each group has one point, and runs come after all, none are needed to choose it.
        self._seeds = settings.search.seeds if choosing or (settings.compare or settings.refit) is None else 0
        self.points: list[Point] = []
        self.finals: list[TrialRun] = []
        self.seconds = 0.0
        """Of the sweep so far, over all its starts."""
        self._progress: dict[str, float] = {}
        self._hours_before: dict[str, float] = {}
        self._clock = time.monotonic()
        self._load(looking)

    # -- what there is

    @property
    def runs(self) -> list[TrialRun]:
        """All runs, those of the search first."""
        return runs_of(self.points) + self.finals

    @property
    def progress(self) -> dict[str, float]:
        """Epochs made, by the name of each run that runs."""
        return self._progress

    def of_group(self, group: str) -> list[Point]:
        """The points of one group."""
        return of_group(self.points, group)

    def best(self, group: str) -> Point | None:
        """The best point of a group so far; the only one where there is nothing to choose."""
        return best_point(self.of_group(group))

    def points_to_come(self, group: str) -> int:
        """How many points of a group are still to be drawn."""
        return max(0, self._wanted(group) - len(self.of_group(group)))

    def to_come(self) -> int:
        """Runs that have still to begin, as far as is known."""
        drawn = sum(run.state == "pending" for run in self.runs)
        search = sum(self.points_to_come(group) for group in self.spaces) * self._seeds
        known = {run.name for run in self.finals}
        finals = sum(run.name not in known for run in self._wanted_finals(planned=True))
        return drawn + search + finals

    def settings_of(self, run: TrialRun) -> PretrainSettings:
        """The settings of a run of the main job."""
        point, refit = self._point(run), self._settings.refit
        if run.purpose == "refit" and refit is not None:
            point = replace(point, values={**point.values, "training.epochs": refit.epochs})
        own = {"name": run.name, "seed": run.seed, "register_as": None}
        return self.settings_at(point).model_copy(update=own)

    def settings_at(self, point: Point) -> PretrainSettings:
        """The settings of a point, whatever the seed."""
        return with_values(self.spaces[point.group].settings, point.values)

    # -- what happens

    def next_run(self) -> TrialRun | None:
        """A run that begins or goes on now; None where none can before another has ended.

        First what an earlier start left, then points one by one and group by group in turn, then the final runs.
        """
        waiting = [run for run in self.runs if run.state == "pending"]
        while not waiting and self._draw_point():
            waiting = [run for run in self.points[-1].runs if run.state == "pending"]
        if not waiting and all(run.ended for run in self.runs):
            known = {run.name for run in self.finals}
            self.finals += [run for run in self._wanted_finals() if run.name not in known]
            waiting = [run for run in self.finals if run.state == "pending"]
        if not waiting:
            return None
        self._hours_before[waiting[0].name] = waiting[0].hours
        return self._replace(replace(waiting[0], state="running", reason=""))

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        known = {run.name for run in self.finals}
        return (
            all(run.ended for run in self.runs)
            and not any(self.points_to_come(group) for group in self.spaces)
            and all(run.name in known for run in self._wanted_finals())
        )

    def made(self, name: str, epochs: float) -> None:
        """A run has made so many epochs; not kept."""
        self._progress[name] = epochs

    def measured(self, name: str, epoch: float, value: float) -> bool:
        """What a run is searched by, after an epoch; whether that is new. A run that goes on tells all once more."""
        run = self.run(name)
        new = epoch > 0 and (not run.series or epoch > run.series[-1][0])
        if new:
            self._replace(replace(run, series=(*run.series, (epoch, value))))
        return new

    def took(self, name: str, hours: float, step_hours: float) -> None:
        """Hours that a run has taken since it began or went on, and those of its steps over all its starts; kept with
        whatever happens next."""
        run = self.run(name)
        hours += self._hours_before.get(name, 0.0)
        self._put(replace(run, hours=hours, step_hours=max(step_hours, run.step_hours)))

    def behind(self, name: str, epoch: float) -> str | None:
        """Why a run shall be stopped early that was just measured after an epoch; None where it shall not."""
        run, asha = self.run(name), self._settings.search.asha
        if asha is None or run.purpose != "search":
            return None
        point = self._point(run)
        if lost := _lost(point):
            return lost
        if round(epoch) not in self._settings.rungs():
            return None
        return is_behind(asha, round(epoch), point, self.of_group(run.group))

    def ended(self, name: str, state: RunState, reason: str = "", **found: Any) -> None:
        """What became of a run.

        Args:
            name: of the run.
            state: of it now; `pending` where it goes on at the next start of the sweep.
            reason: why, where it did not finish.
            found: other fields of the run.
        """
        self._progress.pop(name, None)
        run = self._replace(replace(self.run(name), state=state, reason=reason, **found))
        if run.purpose == "search" and (lost := _lost(self._point(run))):
            # Other seeds of a point that will have no value need not begin.
            for other in self._point(run).runs:
                if other.state == "pending":
                    self._replace(replace(other, state="stopped", reason=lost))

    def interrupt(self, reason: str) -> None:
        """All runs that run go on at the next start of the sweep."""
        for run in self.runs:
            if run.state == "running":
                self.ended(run.name, "pending", reason)

    def tick(self) -> float:
        """Count the time; returns the seconds of the sweep over all its starts."""
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now
        return self.seconds

    # -- how

    def run(self, name: str) -> TrialRun:
        """A run by its name."""
        return next(run for run in self.runs if run.name == name)

    def _point(self, run: TrialRun) -> Point:
        return next(point for point in self.points if (point.group, point.number) == (run.group, run.point))

    def _draw_point(self) -> bool:
        """Draw the next point of the group that has the fewest; False where all have theirs."""
        groups = [group for group in self.spaces if self.points_to_come(group)]
        if not groups:
            return False
        group = min(groups, key=lambda group: len(self.of_group(group)))
        so_far, space = self.of_group(group), self.spaces[group]
        drawn = [space.cell_of(point.values) for point in so_far]
        cells = [(drawn.count(cell), cell) for cell, wanted in self._cells[group] if drawn.count(cell) < wanted]
        _, cell = min(cells, key=lambda counted: counted[0])
        known = [point.values for point in so_far]
        for attempt in range(_REDRAWS):
            values = draw(self._settings.search, space, group, so_far, cell, attempt)
            if values not in known:
                break
        first = self._settings.run.seed
        seeds = range(first, first + self._seeds)
        runs = tuple(self._new(group, len(so_far), seed) for seed in seeds)
        self.points.append(Point(group, len(so_far), values, runs))
        self._save()
        return True

    def _wanted(self, group: str) -> int:
        return sum(wanted for _, wanted in self._cells[group])

    def _wanted_in(self, space: Space, cell: Values) -> int:
        different = space.points_in(cell)
        trials = self._settings.search.trials
        return trials if different is None else min(trials, different)

    def _wanted_finals(self, *, planned: bool = False) -> Iterator[TrialRun]:
        """The final runs of the best points; of the first ones where they are only planned."""
        settings = self._settings
        first = settings.run.seed + self._seeds
        for group in self.spaces:
            best = self.best(group)
            if best is None and not planned:
                continue
            number = 0 if best is None else best.number
            if settings.compare is not None:
                for seed in range(first, first + settings.compare.seeds):
                    yield self._new(group, number, seed, "compare")
            if settings.refit is not None:
                yield self._new(group, number, settings.run.seed, "refit")

    def _new(self, group: str, point: int, seed: int, purpose: Purpose = "search") -> TrialRun:
        parts = [self._settings.run.name, *([slug(group)] if group else []), f"{point:04d}", f"s{seed}"]
        return TrialRun("-".join(parts + (["refit"] if purpose == "refit" else [])), group, point, seed, purpose)

    def _replace(self, run: TrialRun) -> TrialRun:
        self._put(run)
        self._save()
        return run

    def _put(self, run: TrialRun) -> None:
        if run.purpose != "search":
            self.finals = [run if run.name == other.name else other for other in self.finals]
        else:
            self.points = [
                replace(point, runs=tuple(run if run.name == other.name else other for other in point.runs))
                if (point.group, point.number) == (run.group, run.point)
                else point
                for point in self.points
            ]

    def _save(self) -> None:
        content = {
            "seconds": self.tick(),
            "seeds": self._seeds,
            "points": [asdict(point) for point in self.points],
            "finals": [asdict(run) for run in self.finals],
        }
        self._folder.write_json(_FILE, content)

    def _load(self, looking: bool) -> None:
        content = self._folder.read_json(_FILE)
        if content is None:
            return
        self.seconds, self._seeds = content["seconds"], content["seeds"]
        self.points = [
            Point(point["group"], point["number"], point["values"], _runs(point["runs"])) for point in content["points"]
        ]
        self.finals = list(_runs(content["finals"]))
        if not looking:
            self.points = [replace(point, runs=tuple(map(self._again, point.runs))) for point in self.points]
            self.finals = [self._again(run) for run in self.finals]

    def _again(self, run: TrialRun) -> TrialRun:
        """A run as a new start of the sweep finds it: what ran then runs no more."""
        if run.state == "running" or (run.state == "failed" and self._settings.search.retry_failed):
            return replace(run, state="pending")
        training, made = self.settings_of(run).training, round(run.epochs)
        longer = 0 < made < training.epochs and why_not_as_long(made, training.epochs, training.schedule.kind) is None
        if run.state == "finished" and longer:
            return replace(run, state="pending", reason="it has more epochs to make")
        return run


def _lost(point: Point) -> str | None:
    """Why a point will have no value: a run of it was stopped or failed. None where that did not happen."""
    for run in point.runs:
        if run.state == "stopped":
            return run.reason
        if run.state == "failed":
            return f"another seed of its point failed, {run.name}"
    return None


def _runs(kept: Sequence[dict[str, Any]]) -> tuple[TrialRun, ...]:
    """Runs as they were kept."""
    return tuple(TrialRun(**run | {"series": tuple(map(tuple, run["series"]))}) for run in kept)
