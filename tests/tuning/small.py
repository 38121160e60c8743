"""A sweep's settings and points, made up."""

from typing import Any

from metaug_ray.config.sweep import SweepSettings
from metaug_ray.tuning.points import Point, TrialRun


def sweep_settings(**changes: Any) -> SweepSettings:
    """Beta is searched, of MetAug; four epochs, measured after each."""
    run = {
        "name": "sweep",
        "data": {"beton": "images.beton"},
        "training": {"epochs": 4},
        "health": {"knn": {"every": 1}},
    }
    settings = {"run": run, "space": {"method.unified.beta": {"log_uniform": [2, 256]}}, "search": {"trials": 3}}
    return SweepSettings.model_validate(settings | changes)


def finished(number: int, value: float, values: dict[str, Any] | None = None, *, group: str = "") -> Point:
    """A point with one run, which ended at a value."""
    run = TrialRun(f"sweep-{number:04d}-s0", group, number, 0, state="finished", series=((4.0, value),))
    return Point(group, number, values or {}, (run,))
