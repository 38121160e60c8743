"""All that a sweep has tried and has still to try, kept in its folder: what runs next, and what became of it."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.config.sweep import SweepSettings
from metaug_ray.names import slug
from metaug_ray.runtime.stored_folder import StoredFolder
from metaug_ray.tuning.points import Point, Purpose, RunState, TrialRun, best_point
from metaug_ray.tuning.search import draw, is_behind
from metaug_ray.tuning.space import Space, spaces, with_values

_FILE: Final = "trials.json"
_OVER: Final[set[RunState]] = {"finished", "stopped", "failed"}


class Trials:
    """Points and runs of a sweep. Each change is in the folder before it takes effect.

    What ran when an earlier start of the sweep was killed comes first again, and goes on from its checkpoint.

    Args:
        settings: of the sweep.
        folder: of the sweep, on the storage of all runs.
    """

    def __init__(self, settings: SweepSettings, folder: StoredFolder) -> None:
        self._settings, self._folder = settings, folder
        self.spaces: dict[str, Space] = spaces(settings)
        self._cells = {group: space.cells() for group, space in self.spaces.items()}
        choosing = any(space.drawn or len(self._cells[group]) > 1 for group, space in self.spaces.items())
        # Where each group has one point, and runs come after all, none are needed to choose it.
        self._seeds = settings.search.seeds if choosing or (settings.compare or settings.refit) is None else 0
        self.points: list[Point] = []
        self.finals: list[TrialRun] = []
        self.seconds = 0.0
        """Of the sweep so far, over all its starts."""
        self._progress: dict[str, float] = {}
        self._hours_before: dict[str, float] = {}
        self._clock = time.monotonic()
        self._load()

    # -- what there is

    @property
    def runs(self) -> list[TrialRun]:
        """All runs, those of the search first."""
        return [run for point in self.points for run in point.runs] + self.finals

    @property
    def progress(self) -> dict[str, float]:
        """Epochs made, by the name of each run that runs."""
        return self._progress

    def of_group(self, group: str) -> list[Point]:
        return [point for point in self.points if point.group == group]

    def best(self, group: str) -> Point | None:
        """The best point of a group so far; the only one where there is nothing to choose."""
        points = self.of_group(group)
        return best_point(points) if self._seeds else next(iter(points), None)

    def points_to_come(self, group: str) -> int:
        """How many points of a group are still to be drawn."""
        cells = len(self._cells[group])
        wanted = cells * (self._settings.search.trials if self.spaces[group].drawn else 1)
        return max(0, wanted - len(self.of_group(group)))

    def to_come(self) -> int:
        """Runs that have still to begin, as far as is known."""
        drawn = sum(run.state == "pending" for run in self.runs)
        search = sum(self.points_to_come(group) for group in self.spaces) * self._seeds
        known = {run.name for run in self.finals}
        finals = sum(run.name not in known for run in self._wanted_finals(planned=True))
        return drawn + search + finals

    def settings_of(self, run: TrialRun) -> PretrainSettings:
        """The settings of a run of the main job."""
        point = self._point(run)
        settings = with_values(self.spaces[run.group].settings, point.values)
        changes: dict[str, Any] = {"name": run.name, "seed": run.seed, "register_as": None}
        if run.purpose == "refit" and self._settings.refit is not None:
            training = settings.training.model_dump() | {"epochs": self._settings.refit.epochs}
            changes["training"] = settings.training.model_validate(training)
        return settings.model_copy(update=changes)

    # -- what happens

    def next_run(self) -> TrialRun | None:
        """A run that begins or goes on now; None where none can before another has ended.

        First what an earlier start left, then points one by one and group by group in turn, then the final runs.
        """
        waiting = [run for run in self.runs if run.state == "pending"]
        while not waiting and self._draw_point():
            waiting = [run for run in self.points[-1].runs if run.state == "pending"]
        if not waiting and all(run.state in _OVER for run in self.runs):
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
            all(run.state in _OVER for run in self.runs)
            and not any(self.points_to_come(group) for group in self.spaces)
            and all(run.name in known for run in self._wanted_finals())
        )

    def made(self, name: str, epochs: float) -> None:
        """A run has made so many epochs; not kept."""
        self._progress[name] = epochs

    def measured(self, name: str, epoch: float, value: float) -> None:
        """What a run is searched by, after an epoch. What is known already is left out."""
        run = self.run(name)
        if epoch > 0 and (not run.series or epoch > run.series[-1][0]):
            self._replace(replace(run, series=(*run.series, (epoch, value))))

    def took(self, name: str, hours: float, step_hours: float) -> None:
        """Hours that a run has taken since it began or went on, and those of its steps over all its starts."""
        run = self.run(name)
        hours += self._hours_before.get(name, 0.0)
        self._replace(replace(run, hours=hours, step_hours=max(step_hours, run.step_hours)))

    def behind(self, name: str, epoch: float) -> str | None:
        """Why a run shall be stopped early that was just measured after an epoch; None where it shall not."""
        run, asha = self.run(name), self._settings.search.asha
        if asha is None or run.purpose != "search":
            return None
        point = self._point(run)
        other = next((run.reason for run in point.runs if run.state == "stopped"), None)
        if other is not None or round(epoch) not in self._settings.rungs():
            return other
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
        if state == "stopped":
            # Other seeds of a point that is behind need not begin.
            for other in self._point(run).runs:
                if other.state == "pending" and run.purpose == "search":
                    self._replace(replace(other, state="stopped", reason=reason))

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
        so_far, cells = self.of_group(group), self._cells[group]
        cell = cells[len(so_far) % len(cells)]
        values = draw(self._settings.search, self.spaces[group], group, so_far, cell)
        first = self._settings.run.seed
        seeds = range(first, first + self._seeds)
        runs = tuple(self._new(group, len(so_far), seed) for seed in seeds)
        self.points.append(Point(group, len(so_far), values, runs))
        self._save()
        return True

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
        if run.purpose != "search":
            self.finals = [run if run.name == other.name else other for other in self.finals]
        else:
            self.points = [
                replace(point, runs=tuple(run if run.name == other.name else other for other in point.runs))
                if (point.group, point.number) == (run.group, run.point)
                else point
                for point in self.points
            ]
        self._save()
        return run

    def _save(self) -> None:
        content = {
            "seconds": self.tick(),
            "points": [asdict(point) for point in self.points],
            "finals": [asdict(run) for run in self.finals],
        }
        self._folder.write_json(_FILE, content)

    def _load(self) -> None:
        content = self._folder.read_json(_FILE)
        if content is None:
            return
        self.seconds = content["seconds"]
        self.points = [
            Point(point["group"], point["number"], point["values"], _runs(point["runs"])) for point in content["points"]
        ]
        self.finals = list(_runs(content["finals"]))


def _runs(kept: Sequence[dict[str, Any]]) -> tuple[TrialRun, ...]:
    """Runs as they were kept. What ran then runs no more."""
    runs = []
    for run in kept:
        again = {"state": "pending"} if run["state"] == "running" else {}
        runs.append(TrialRun(**run | again | {"series": tuple(map(tuple, run["series"]))}))
    return tuple(runs)
