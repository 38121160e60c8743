"""The value over single parameters, as figure 7 of the paper."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from metaug_ray.evaluation.intervals import confidence_interval
from metaug_ray.evaluation.labels import shown
from metaug_ray.tuning.figures.style import label_axis, of_group
from metaug_ray.tuning.points import Point
from metaug_ray.tuning.scales import Scale, short_names, value_key
from metaug_ray.tuning.slices import held


def draw_lines(groups: Mapping[str, Sequence[Point]], scales: Mapping[str, Scale], metric: str, path: Path) -> bool:
    """A panel for each numeric parameter: all finished points, pale; and as a line, with 95 % intervals where a point
    has several seeds, those whose other parameters are at their best values. Where another parameter is drawn from a
    range there is no line, as its best value is hardly drawn twice.

    Args:
        groups: their points.
        scales: of all parameters, by name.
        metric: name of the value.
        path: PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    done = {group: [point for point in points if not math.isnan(point.value)] for group, points in groups.items()}
    every = [point for points in done.values() for point in points]
    names = [name for name, scale in scales.items() if scale.numeric and _differ(every, name)]
    if not names:
        return False
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    short = short_names(list(scales))
    with shown(list(groups)) as texts:
        figure = Figure(figsize=(1.0 + 3.8 * columns, 0.7 + 3.1 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, name in zip(panels.flat, names, strict=False):
            for number, points in enumerate(done.values()):
                # Groups stand beside one another, not on one another.
                shift = 0.012 * (number - (len(groups) - 1) / 2)
                _line(axes, points, scales, name, of_group(number), shift)
            label_axis(axes, "x", scales[name], short[name])
            axes.grid(axis="y", alpha=0.3)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in panels.flat[len(names) :]:
            axes.set_axis_off()
        for axes in panels[:, 0]:
            axes.set_ylabel(metric)
        if len(groups) > 1:
            handles = [Line2D([], [], markersize=5, **of_group(number)) for number in range(len(groups))]
            figure.legend(handles, texts, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
        if len(scales) > 1 and any(_lined(scales, name) for name in names):
            figure.supxlabel("lines: the other parameters at their best; pale: all finished points", fontsize=9)
        figure.savefig(path, dpi=120)
    return True


def _lined(scales: Mapping[str, Scale], name: str) -> bool:
    return all(scale.listed is not None for other, scale in scales.items() if other != name)


def _differ(points: Sequence[Point], name: str) -> bool:
    return len({value_key(point.values[name]) for point in points if name in point.values}) > 1


def _line(
    axes: Axes,
    points: Sequence[Point],
    scales: Mapping[str, Scale],
    name: str,
    style: Mapping[str, Any],
    shift: float,
) -> None:
    """All points of a group, and the line."""
    scale = scales[name]
    having = [point for point in points if name in point.values]
    places = [scale.number_at(point.values[name], shift) for point in having]
    lined = _lined(scales, name)
    alpha = 0.35 if lined else 0.8
    axes.plot(places, [point.value for point in having], linestyle="none", markersize=4, alpha=alpha, **style)
    if not lined:
        return
    line = sorted(held(points, scales, [name]), key=lambda point: scale.number(point.values[name]))
    intervals = [confidence_interval([run.last for run in point.runs]) for point in line]
    axes.errorbar(
        [scale.number_at(point.values[name], shift) for point in line],
        [interval.mean for interval in intervals],
        yerr=np.nan_to_num([interval.half_width for interval in intervals]),
        markersize=5,
        capsize=3,
        **style,
    )
