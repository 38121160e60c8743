"""The value over two parameters, as figure 6 of the paper."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from metaug_ray.evaluation.labels import shown
from metaug_ray.tuning.figures.style import BEST, COLOURS, label_axis
from metaug_ray.tuning.points import Point, best_point
from metaug_ray.tuning.scales import Scale, measured, short_names, value_key, value_text
from metaug_ray.tuning.slices import held

_MOST_PARAMETERS: Final = 4
"""Of which every pair has a map: the most important ones."""
_FEWEST_CELLS: Final = 4
_FEWEST_POINTS: Final = 5
_MOST_TEXTS: Final = 64
"""Cells that have room for their values as text."""
_UNFINISHED: Final[Mapping[str, Any]] = {"marker": "x", "color": "0.7", "markersize": 4}
_LETTERS: Final[tuple[Literal["x", "y"], ...]] = ("x", "y")


def draw_heat_maps(
    group: str,
    points: Sequence[Point],
    scales: Mapping[str, Scale],
    importances: Mapping[str, float],
    metric: str,
    path: Path,
) -> bool:
    """A panel for each pair of numeric parameters.

    Where both have values of a list, cells: each other parameter is held at its best value, and what is not finished
    stays blank. Else all finished points as dots, whatever their other parameters are.

    Args:
        group: to say in the title; empty where there are no groups.
        points: of it.
        scales: of all parameters, by name.
        importances: by which parameters are chosen where there are many.
        metric: name of the value.
        path: PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    numeric = [name for name in scales if scales[name].numeric and len({_key(point, name) for point in points}) > 1]
    numeric.sort(key=lambda name: -importances.get(name, 0.0))
    pairs = [
        pair
        for pair in combinations(sorted(numeric[:_MOST_PARAMETERS], key=list(scales).index), 2)
        if _worth(points, scales, pair)
    ]
    best = best_point(points)
    if not pairs or best is None:
        return False
    values = [point.value for point in points if not math.isnan(point.value)]
    norm = Normalize(min(values), max(values))
    columns = min(len(pairs), 3)
    rows = -(-len(pairs) // columns)
    short = short_names(list(scales))
    with shown([group] if group else []) as texts:
        figure = Figure(figsize=(1.0 + 4.0 * columns, 0.5 + 3.7 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes, pair in zip(panels, pairs, strict=False):
            if _listed(scales, pair):
                _cells(axes, held(points, scales, pair), scales, pair, norm)
                axes.set_title(_held_at(best, scales, pair, short), fontsize=9)
            else:
                _dots(axes, points, scales, pair, norm)
                for letter, name in zip(_LETTERS, pair, strict=True):
                    label_axis(axes, letter, scales[name], short[name])
                axes.set_title("other parameters vary" if len(scales) > 2 else "", fontsize=9)
            axes.set(xlabel=short[pair[0]], ylabel=short[pair[1]])
        for axes in panels[len(pairs) :]:
            axes.set_axis_off()
        figure.colorbar(ScalarMappable(norm, COLOURS), ax=list(panels), label=metric, pad=0.02)
        _legend(figure, best, any(not _listed(scales, pair) for pair in pairs))
        figure.suptitle(texts[0] if group else "", fontsize=11)
        figure.savefig(path, dpi=120)
    return True


def _legend(figure: Figure, best: Point, dots: bool) -> None:
    frame = Line2D(
        [], [], linestyle="none", marker="o" if dots else "s", color="none", markeredgecolor=BEST, markeredgewidth=2.5
    )
    handles, texts = [frame], [f"best: {measured(best.value)}"]
    if dots:
        handles.append(Line2D([], [], linestyle="none", **_UNFINISHED))
        texts.append("not finished")
    figure.legend(handles, texts, loc="outside lower center", ncols=2, frameon=False, fontsize=9)


def _key(point: Point, name: str) -> str:
    return value_key(point.values.get(name))


def _listed(scales: Mapping[str, Scale], names: Sequence[str]) -> bool:
    return all(scales[name].listed is not None for name in names)


def _worth(points: Sequence[Point], scales: Mapping[str, Scale], names: Sequence[str]) -> bool:
    """Whether a map of two parameters shows more than a list would."""
    if _listed(scales, names):
        cells = held(points, scales, names)
        several = all(len({_key(point, name) for point in cells}) > 1 for name in names)
        return several and len(cells) >= _FEWEST_CELLS
    finished = [point for point in points if not math.isnan(point.value) and all(n in point.values for n in names)]
    return len(finished) >= _FEWEST_POINTS


def _held_at(best: Point, scales: Mapping[str, Scale], names: Sequence[str], short: Mapping[str, str]) -> str:
    others = [name for name in scales if name not in names and name in best.values]
    texts = [
        f"{short[name]} {'=' if scales[name].listed is not None else 'nearest to'} {value_text(best.values[name])}"
        for name in others
    ]
    # Two to a line: panels are narrow.
    return "\n".join(", ".join(texts[start : start + 2]) for start in range(0, len(texts), 2))


def _cells(
    axes: Axes, points: Sequence[Point], scales: Mapping[str, Scale], names: tuple[str, str], norm: Normalize
) -> None:
    """One cell for each pair of values, evenly spaced whatever the values are."""
    keys = [[value_key(value) for value in scales[name].listed or ()] for name in names]
    grid = np.full((len(keys[1]), len(keys[0])), math.nan)
    places = {}
    for point in points:
        column, row = (keys[i].index(_key(point, name)) for i, name in enumerate(names))
        grid[row, column] = point.value
        places[row, column] = point
    axes.imshow(grid, origin="lower", aspect="auto", cmap=COLOURS, norm=norm)
    best = best_point(points)
    for (row, column), point in places.items():
        if point is best:
            axes.add_patch(
                Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=BEST, linewidth=3, zorder=4)
            )
        if grid.size <= _MOST_TEXTS:
            colour = "white" if float(norm(point.value)) < 0.5 else "black"
            axes.text(column, row, measured(point.value), ha="center", va="center", fontsize=7, color=colour)
    for axis, name in zip((axes.xaxis, axes.yaxis), names, strict=True):
        texts = [value_text(value) for value in scales[name].listed or ()]
        axis.set_ticks(range(len(texts)), texts, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_color("0.8")


def _dots(
    axes: Axes, points: Sequence[Point], scales: Mapping[str, Scale], names: tuple[str, str], norm: Normalize
) -> None:
    having = [point for point in points if all(name in point.values for name in names)]
    finished = sorted((point for point in having if not math.isnan(point.value)), key=lambda point: point.value)
    others = [point for point in having if math.isnan(point.value)]
    x, y = names
    axes.plot(_places(others, scales, x), _places(others, scales, y), linestyle="none", zorder=1, **_UNFINISHED)
    values = [point.value for point in finished]
    axes.scatter(
        _places(finished, scales, x), _places(finished, scales, y), 55, values, cmap=COLOURS, norm=norm, zorder=2
    )
    best = [point for point in having if point is best_point(points)]
    axes.scatter(
        _places(best, scales, x),
        _places(best, scales, y),
        130,
        facecolors="none",
        edgecolors=BEST,
        linewidths=2.5,
        zorder=3,
    )


def _places(points: Sequence[Point], scales: Mapping[str, Scale], name: str) -> list[float]:
    return [scales[name].number(point.values[name]) for point in points]
