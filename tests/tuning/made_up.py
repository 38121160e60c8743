"""Sweeps that nobody ran."""

from collections.abc import Mapping, Sequence
from typing import Any

from metaug_ray.config.sweep import SweepSettings
from metaug_ray.tuning.points import Point, Purpose, RunState, TrialRun


def sweep(name: str = "a_sweep", **settings: Any) -> SweepSettings:
    """Settings of a sweep; `epochs` of its runs, the rest by the names of SweepSettings."""
    run = {
        "name": name,
        "data": {"beton": "/data/train.beton"},
        "training": {"epochs": settings.pop("epochs", 9)},
        "health": {"knn": {"every": 1}},
    }
    return SweepSettings.model_validate({"run": run, **settings})


def beta_sweep(**changes: Any) -> SweepSettings:
    """Beta is searched, of MetAug; four epochs, measured after each."""
    space = {"method.unified.beta": {"log_uniform": [2, 256]}}
    return sweep(**{"name": "sweep", "epochs": 4, "space": space, "search": {"trials": 3}} | changes)


def trial(
    value: float = 0.5,
    state: RunState = "finished",
    *,
    group: str = "",
    point: int = 0,
    seed: int = 0,
    purpose: Purpose = "search",
    epochs: int = 9,
    **other: Any,
) -> TrialRun:
    """A run whose metric rises evenly to a value."""
    series = tuple((float(epoch), value * epoch / epochs) for epoch in range(1, epochs + 1))
    name = f"a_sweep-{group}{point}-s{seed}"
    return TrialRun(
        name, group, point, seed, purpose, state, series=series, **{"hours": 1.0, "step_hours": 0.75} | other
    )


def point(
    number: int,
    values: Mapping[str, Any],
    found: Sequence[float] = (0.5,),
    state: RunState = "finished",
    group: str = "",
    **run: Any,
) -> Point:
    """A point with a run for each value found."""
    runs = [trial(value, state, group=group, point=number, seed=seed, **run) for seed, value in enumerate(found)]
    return Point(group, number, values, runs)
