"""Points of a sweep with all but some parameters held at the best point's values, as figures 6 and 7 of the paper have
them."""

import math
from collections.abc import Mapping, Sequence

from metaug_ray.tuning.points import Point, best_point
from metaug_ray.tuning.scales import Scale, value_key


def held(points: Sequence[Point], scales: Mapping[str, Scale], free: Sequence[str]) -> list[Point]:
    """Finished points that differ from the best one in some parameters alone.

    Values of a list are held exactly. Those of a range are hardly drawn twice, so that of the points that are equal
    otherwise the one stays whose values are nearest to the best.

    Args:
        points: of one group.
        scales: of all parameters, by name.
        free: the parameters that may differ; points without one of them are left out.

    Returns:
        One point for each combination of the free parameters' values.
    """
    best = best_point(points)
    if best is None:
        return []
    others = [name for name in scales if name not in free]
    fixed = [name for name in others if scales[name].listed is not None]
    found: dict[tuple[str, ...], Point] = {}
    for point in points:
        if math.isnan(point.value) or any(name not in point.values for name in free):
            continue
        if any(_key(point, name) != _key(best, name) for name in fixed):
            continue
        key = tuple(value_key(point.values[name]) for name in free)
        rival = found.get(key)
        if rival is None or _distance(point, best, scales, others) < _distance(rival, best, scales, others):
            found[key] = point
    return list(found.values())


def _key(point: Point, name: str) -> str | None:
    """None, which is no value's key, where the point has no such parameter."""
    return value_key(point.values[name]) if name in point.values else None


def _distance(point: Point, best: Point, scales: Mapping[str, Scale], names: Sequence[str]) -> float:
    """Sum of squares over the parameters; 1 for each that only one of the two has."""
    total = 0.0
    for name in names:
        has, wanted = name in point.values, name in best.values
        if has and wanted:
            total += (scales[name].place(point.values[name]) - scales[name].place(best.values[name])) ** 2
        else:
            total += float(has != wanted)
    return total
