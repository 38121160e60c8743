"""All points of a sweep as parallel coordinates."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from metaug_ray.evaluation.labels import shown
from metaug_ray.tuning.figures.style import COLOURS
from metaug_ray.tuning.points import Point
from metaug_ray.tuning.scales import Scale, measured, short_names

_ABSENT: Final = -0.16
"""Height of points that do not have a parameter; its values are from 0 to 1."""
_SPREAD: Final = 0.035
"""Height over which lines are spread that meet at one value."""
_STRIP: Final = 0.1
"""Width of the strip of colours at the last axis."""

Ticks = Sequence[tuple[float, str]]


def draw_parallel(groups: Mapping[str, Sequence[Point]], scales: Mapping[str, Scale], metric: str, path: Path) -> bool:
    """An axis for each parameter and a line for each point, coloured by its value, the best on top; those without a
    value, as they were stopped, say, are grey and end before it.

    Args:
        groups: their points; several are an axis of their own.
        scales: of all parameters, by name.
        metric: name of the value.
        path: PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    points = [point for members in groups.values() for point in members]
    values = [point.value for point in points if not math.isnan(point.value)]
    if len(set(values)) < 2 or not scales:
        return False
    norm = Normalize(min(values), max(values))
    short = short_names(list(scales))
    names = list(groups) if len(groups) > 1 else []
    ordered = _by_value(points)
    ranks = {id(point): rank / len(values) - 0.5 for rank, point in enumerate(ordered[-len(values) :])}
    with shown(names) as texts:
        axis_ticks: list[tuple[str, Ticks]] = [(short[name], scale.ticks()) for name, scale in scales.items()]
        if names:
            axis_ticks.insert(0, ("group", [(number / (len(names) - 1), text) for number, text in enumerate(texts)]))
        figure = Figure(figsize=(2.0 + 1.6 * len(axis_ticks), 4.6), layout="constrained")
        axes = figure.subplots()
        for point in ordered:
            _line(axes, point.value, _heights(point, names, scales, ranks.get(id(point), 0.0)), norm)
        _axes(axes, axis_ticks, [number + bool(names) for number, name in enumerate(scales) if _absent(points, name)])
        _value_axis(axes, len(axis_ticks), norm, metric)
        figure.savefig(path, dpi=120)
    return True


def _by_value(points: Sequence[Point]) -> list[Point]:
    """Those without a value first, the best last."""
    return sorted(points, key=lambda point: -math.inf if math.isnan(point.value) else point.value)


def _absent(points: Sequence[Point], name: str) -> bool:
    return any(name not in point.values for point in points)


def _heights(point: Point, groups: Sequence[str], scales: Mapping[str, Scale], rank: float) -> list[float]:
    """On all axes but the last. Where many lines meet, they are spread by their rank, from -0.5 to 0.5."""
    heights = [groups.index(point.group) / (len(groups) - 1) + _SPREAD * rank] if groups else []
    for name, scale in scales.items():
        has = name in point.values
        height = scale.place(point.values[name]) if has else _ABSENT
        heights.append(height if has and scale.listed is None else height + _SPREAD * rank)
    return heights


def _line(axes: Axes, value: float, heights: list[float], norm: Normalize) -> None:
    if math.isnan(value):
        axes.plot(heights, color="0.8", linewidth=0.7, zorder=1)
        return
    place = float(norm(value))
    width = 2.8 if value == norm.vmax else 1.0
    axes.plot([*heights, place], color=colormaps[COLOURS](place), linewidth=width)


def _axes(axes: Axes, axis_ticks: Sequence[tuple[str, Ticks]], absent: Sequence[int]) -> None:
    """Axes, and below those that some points do not have the place of these."""
    for number, (name, ticks) in enumerate(axis_ticks):
        axes.plot([number, number], [0, 1], color="0.3", linewidth=1.0, zorder=3)
        for place, text in ticks:
            _label(axes, number, place, text)
        axes.text(number, 1.06, name, ha="center", va="bottom", fontsize=9)
    for number in absent:
        _label(axes, number, _ABSENT, "not searched")
    axes.set(xlim=(-0.75, len(axis_ticks) + 0.5), ylim=(_ABSENT - 0.04 if absent else -0.03, 1.14))
    axes.set_axis_off()


def _label(axes: Axes, number: int, place: float, text: str) -> None:
    box = {"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
    aligned: dict[str, Any] = {"ha": "right", "va": "center", "fontsize": 7.5, "bbox": box, "zorder": 4}
    axes.annotate(text, (number, place), (-4, 0), textcoords="offset points", **aligned)


def _value_axis(axes: Axes, number: int, norm: Normalize, metric: str) -> None:
    """The last one, with the colours."""
    extent = (number, number + _STRIP, 0, 1)
    axes.imshow(np.linspace(0, 1, 256)[:, None], origin="lower", aspect="auto", cmap=COLOURS, extent=extent)
    for place in np.linspace(0, 1, 5):
        text = measured(float(norm.inverse(place)))
        axes.annotate(text, (number + _STRIP, place), (4, 0), textcoords="offset points", va="center", fontsize=7.5)
    axes.text(number + _STRIP / 2, 1.06, metric, ha="center", va="bottom", fontsize=9)
