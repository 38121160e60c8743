"""What the study runs, stage by stage: each is a sweep, and what it compares follows from what came before."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from jobs.studies.worth.images import HALF
from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.config.recorded import fixed_settings
from metaug_ray.config.sweep import Parameter, SearchSettings, SweepSettings
from metaug_ray.tuning.points import Point, Purpose, TrialRun, best_point, of_group
from metaug_ray.tuning.space import Space, Values, drawn, spaces, value_of, with_values

FOLDER: Final = Path(__file__).parent
CMC: Final = "CMC"
_FAMILIES: Final = (CMC, "Eq. 8", "Eq. 9", "Eq. 10")
_CENTERED: Final = " centered"
_NEVER: Final = 1e-30
"""Of a rate: it moves nothing."""


@dataclass(frozen=True)
class Task:
    """One run that a stage wants."""

    stage: str
    group: str
    point: int
    seed: int
    purpose: Purpose
    values: Values
    """of the parameters that are searched"""
    base: PretrainSettings
    """settings of the group, where no parameter says anything else"""

    @property
    def settings(self) -> PretrainSettings:
        """Settings of the run. Made when they are asked for: most tasks are only counted."""
        return with_values(self.base, self.values).model_copy(update={"seed": self.seed})

    @property
    def key(self) -> tuple[str, str, int, int, str]:
        """What tells it from all others."""
        return self.stage, self.group, self.point, self.seed, self.purpose

    @property
    def fingerprint(self) -> str:
        """The same for the same settings: another stage may have made this very run."""
        settings = self.settings
        fixed = fixed_settings(settings)
        del fixed["name"]
        known = json.dumps([fixed, settings.data.beton.rpartition("/")[2], self.purpose == "compare"])
        return hashlib.sha256(known.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Done:
    """What became of a task."""

    run: TrialRun
    values: Values


Results = Mapping[str, Sequence[Done]]
"""What is done, by stage."""


def stages(changed: Mapping[str, Any] | None = None) -> dict[str, Callable[[Results], SweepSettings | None]]:
    """The stages in their order: each gives its sweep, or None before what it builds on is there.

    Args:
        changed: settings by dotted name that differ from the study's in all of them, to try it: those of a run, and
            `search.trials` and `compare.seeds`.
    """
    contrasts = _first(changed or {})

    def generators(results: Results) -> SweepSettings | None:
        best = _best_points(contrasts, results.get("contrasts", ()))
        if best is None:
            return None
        chosen = [
            _better([best[name] for name in (family, family + _CENTERED) if name in best]) for family in _FAMILIES
        ]
        groups = {
            f"{point.group} + MAG": _fixed(contrasts, point) | {"method.generators": True, "method.meta.every": 4}
            for point in chosen
        }
        search = SearchSettings(kind="random", trials=min(8, contrasts.search.trials))
        return _sweep(contrasts, "worth-generators", groups, _GENERATORS, search)

    def confounds(results: Results) -> SweepSettings | None:
        best, mag = _best_points(contrasts, results.get("contrasts", ())), _best_mag(generators(results), results)
        if best is None or mag is None:
            return None
        cmc = _fixed(contrasts, best[CMC])
        epochs = contrasts.run.training.epochs
        return _sweep(
            contrasts,
            "worth-confounds",
            {
                CMC: cmc,
                "CMC, 2 updates per batch": cmc | {"training.updates_per_batch": 2},
                "CMC, twice the epochs": cmc | {"training.epochs": 2 * epochs},
                "CMC, bank.momentum 0": cmc | {"bank.momentum": 0.0},
                "CMC, bank.momentum 0.5": cmc | {"bank.momentum": 0.5},
                "CMC, negatives per anchor": cmc | {"bank.sampling": "per_anchor", "bank.negatives": 1024},
                "CMC, 1,024 negatives": cmc | {"bank.negatives": 1024},
                "MAG": mag,
                "MAG, margins per anchor": mag | {"method.margin_scope": "anchor"},
                "MAG, R_sigma in the encoders' loss": mag
                | {"method.regularize_encoders": True, "method.alpha": max(0.1, mag["method.alpha"])},
                "CMC, SGD": cmc | _sgd(1.0),
                "Eq. 8 as released, SGD": _RELEASED | _sgd(1.0),
                "Eq. 8 as released, undivided, SGD": _RELEASED | _sgd(_RELEASED["method.unified_eq8.beta"]),
            },
        )

    def diagnosis(results: Results) -> SweepSettings | None:
        mag = _best_mag(generators(results), results)
        if mag is None:
            return None
        return _sweep(
            contrasts,
            "worth-diagnosis",
            {
                "trained by the meta gradient": mag,
                "at every step": mag | _EACH_STEP,
                "frozen at random": mag | _FROZEN,
                "trained by alpha R alone": mag | _BY_R_ALONE,
                "trained to raise the loss": mag | _TO_RAISE,
                "delta 0": mag | {"method.delta": 0.0},
                "delta 1": mag | {"method.delta": 1.0},
                "delta 10": mag | {"method.delta": 10.0},
            },
        )

    def diagnosis_centered(results: Results) -> SweepSettings | None:
        sweep = generators(results)
        best = None if sweep is None else _best_points(sweep, results.get("generators", ()))
        if sweep is None or best is None:
            return None
        found = _fixed(sweep, best[f"Eq. 10{_CENTERED} + MAG"])
        felt = found | {"method.delta": 1.0}
        return _sweep(
            contrasts,
            "worth-diagnosis-centered",
            {
                "as found": found,
                "delta 0": found | {"method.delta": 0.0},
                "delta 1": felt,
                "delta 10": found | {"method.delta": 10.0},
                "delta 1, at every step": felt | _EACH_STEP,
                "delta 1, frozen at random": felt | _FROZEN,
                "delta 1, trained by the meta gradient alone": felt | {"method.alpha": 0.0},
                "delta 1, trained by alpha R alone": felt | _BY_R_ALONE,
                "delta 1, trained to raise the loss": felt | _TO_RAISE,
            },
        )

    def half(results: Results) -> SweepSettings | None:
        best = _best_points(contrasts, results.get("contrasts", ()))
        if best is None:
            return None
        groups = {group: _fixed(contrasts, point) for group, point in best.items()}
        fewer = contrasts.model_copy(update={"run": with_values(contrasts.run, {"data.beton": HALF})})
        return _sweep(fewer, "worth-half", groups)

    return {
        "contrasts": lambda _: contrasts,
        "generators": generators,
        "confounds": confounds,
        "diagnosis": diagnosis,
        "diagnosis_centered": diagnosis_centered,
        "half": half,
    }


_GENERATORS: Final = {
    "method.delta": {"log_uniform": (1e-3, 1.0)},
    "method.alpha": {"log_uniform": (1e-6, 1.0)},
    "method.meta.virtual_learning_rate": {"log_uniform": (1e-4, 1e-1)},
}
_EACH_STEP: Final = {"method.meta.every": 1}
_FROZEN: Final = {"training.generator.learning_rate": _NEVER}
_BY_R_ALONE: Final = {"method.meta.virtual_learning_rate": _NEVER, "method.alpha": 1.0}
_TO_RAISE: Final = {"training.generator.maximize": True, "method.alpha": 0.0}
"""How generators may be trained otherwise."""
_RELEASED: Final = {
    "method.contrast": "unified_eq8",
    "method.unified_eq8.beta": 16.0,
    "method.unified_eq8.margin": 0.0,
    "bank.negatives": 1024,
}
"""What the authors' released code trains, but for its views and sizes."""


def tasks(stage: str, sweep: SweepSettings, done: Sequence[Done]) -> Iterator[Task]:
    """All runs that a stage wants and that can be named by now, whether done or not: the search's, point by point, then
    for each group whose search is done those of its best point."""
    there_are = spaces(sweep)
    drawn_points = {
        group: [
            _point(space, f"{sweep.search.seed} {group} {number}", first=number == 0)
            for number in range(sweep.search.trials if space.parameters else 0)
        ]
        for group, space in there_are.items()
    }
    first = sweep.run.seed

    def task(group: str, point: int, seed: int, purpose: Purpose) -> Task:
        values = drawn_points[group][point] if drawn_points[group] else {}
        return Task(stage, group, point, seed, purpose, values, there_are[group].settings)

    for number in range(sweep.search.trials):
        for group, points in drawn_points.items():
            if number < len(points):
                yield task(group, number, first, "search")
    found = points_of(done)
    for seed in range(sweep.compare.seeds if sweep.compare else 0):
        for group, points in drawn_points.items():
            searched = of_group(found, group)
            if sum(all(run.ended for run in point.runs) for point in searched) < len(points):
                continue
            best = best_point(searched) if points else None
            if best is not None or not points:
                yield task(group, best.number if best else 0, first + 1 + seed, "compare")


def points_of(done: Sequence[Done]) -> list[Point]:
    """The points that were searched, as a sweep has them."""
    return [
        Point(each.run.group, each.run.point, each.values, (each.run,)) for each in done if each.run.purpose == "search"
    ]


def _best_points(sweep: SweepSettings, done: Sequence[Done]) -> dict[str, Point] | None:
    """The best point of each group; None before the search of all of them is done."""
    searched = {group: of_group(points_of(done), group) for group in sweep.groups}
    best = {group: best_point(points) for group, points in searched.items() if len(points) >= sweep.search.trials}
    found = {group: point for group, point in best.items() if point is not None}
    return found if len(found) == len(sweep.groups) else None


def _better(points: Sequence[Point]) -> Point:
    """The point of the greatest value, by the images that decide."""
    return max(points, key=lambda point: point.value)


def _fixed(sweep: SweepSettings, point: Point) -> dict[str, Any]:
    """What a point and its group say of the settings."""
    return {**sweep.groups[point.group], **point.values}


def _best_mag(sweep: SweepSettings | None, results: Results) -> dict[str, Any] | None:
    """Settings of the best group with generators; None before all of them are searched."""
    best = None if sweep is None else _best_points(sweep, results.get("generators", ()))
    return None if sweep is None or best is None else _fixed(sweep, _better(list(best.values())))


def _first(changed: Mapping[str, Any]) -> SweepSettings:
    """The first stage, from its files alone: the environment has no say in a protocol."""
    base, first = (yaml.safe_load((FOLDER / f"{name}.yaml").read_text()) for name in ("base", "contrasts"))
    for name, value in changed.items():
        part, _, inner = name.partition(".")
        if part in ("search", "compare"):
            first[part][inner] = value
    run = PretrainSettings.model_validate(base | {"name": first.pop("name")})
    return SweepSettings(
        run=with_values(run, {n: v for n, v in changed.items() if n.partition(".")[0] not in first}), **first
    )


def _sweep(
    like: SweepSettings,
    name: str,
    groups: Mapping[str, Mapping[str, Any]],
    space: Mapping[str, Any] | None = None,
    search: SearchSettings | None = None,
) -> SweepSettings:
    return SweepSettings(
        run=like.run.model_copy(update={"name": name}),
        space={name: Parameter.model_validate(parameter) for name, parameter in (space or {}).items()},
        groups=groups,
        search=search or SearchSettings(kind="random", trials=1),
        compare=like.compare,
    )


def _point(space: Space, seed: str, *, first: bool) -> Values:
    """A point of a group: the first is the group as it is, the others are drawn."""
    if first:
        return space.point(lambda name, _: value_of(space.settings, name))
    draws = random.Random(seed)
    return space.point(lambda _, parameter: drawn(parameter, draws))


def _sgd(factor: float) -> dict[str, Any]:
    """The authors' SGD on a loss of so many times the height: as much more of the rate, and as much less decay."""
    rates = {"kind": "sgd", "learning_rate": 0.03 * factor, "momentum": 0.9, "weight_decay": 1e-4 / factor}
    return {f"training.{part}.{name}": value for part in ("encoder", "head") for name, value in rates.items()}
