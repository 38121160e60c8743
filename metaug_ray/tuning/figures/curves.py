"""The metric by epoch of all runs of a search."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from metaug_ray.evaluation.labels import shown
from metaug_ray.tuning.points import Point, best_point, runs_of

_BEST: Final = "best"
_STYLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "finished": {"color": "#56B4E9", "linewidth": 1.0, "zorder": 2},
    "running": {"color": "#009E73", "linewidth": 1.2, "zorder": 3},
    "stopped": {"color": "0.55", "linewidth": 0.9, "linestyle": "--", "zorder": 1},
    "failed": {"color": "#D55E00", "linewidth": 1.0, "linestyle": ":", "zorder": 3},
    _BEST: {"color": "black", "linewidth": 2.6, "zorder": 4},
}
"""Colours of Okabe and Ito, which all eyes tell apart; patterns and marks say the same."""
_MARKS: Final[Mapping[str, str]] = {"stopped": "x", "failed": "s", "running": ">"}
"""At the last value of what did not train to its end."""
_NAMES: Final = {"stopped": "stopped early", _BEST: "best point"}
_MANY: Final = 60
"""Runs from which on lines are thin."""


def draw_curves(groups: Mapping[str, Sequence[Point]], rungs: Sequence[int], metric: str, path: Path) -> bool:
    """A panel for each group, a line for each run.

    Args:
        groups: their points.
        rungs: epochs after which runs are compared, and stopped if they are behind.
        metric: name of what is searched by.
        path: PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    groups = {group: points for group, points in groups.items() if any(run.series for run in runs_of(points))}
    if not groups:
        return False
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    kinds: set[str] = set()
    with shown(list(groups)) as titles:
        figure = Figure(figsize=(1.2 + 4.3 * columns, 0.8 + 3.2 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, title, points in zip(panels.flat, titles, groups.values(), strict=False):
            kinds |= _panel(axes, points, rungs)
            axes.set_title(title if list(groups) != [""] else "", fontsize=10)
        for axes in panels.flat[len(groups) :]:
            axes.set_axis_off()
        for axes in panels[:, 0]:
            axes.set_ylabel(metric)
        # Below the last of each column, as the last row may be short.
        for axes in panels.flat[len(groups) - columns : len(groups)]:
            axes.set_xlabel("epoch")
            axes.tick_params(labelbottom=True)
        handles = [_handle(kind) for kind in _STYLES if kind in kinds]
        if rungs:
            handles.append(Line2D([], [], color="0.8", linewidth=1.0, label="ASHA's rungs"))
        figure.legend(handles=handles, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
        figure.savefig(path, dpi=120)
    return True


def _handle(kind: str) -> Line2D:
    return Line2D([], [], label=_NAMES.get(kind, kind), marker=_MARKS.get(kind), markersize=5, **_STYLES[kind])


def _panel(axes: Axes, points: Sequence[Point], rungs: Sequence[int]) -> set[str]:
    """Returns the kinds of lines that it has."""
    best = best_point(points)
    kinds: set[str] = set()
    pale = {"linewidth": 0.6, "alpha": 0.6} if len(runs_of(points)) > _MANY else {}
    for rung in rungs:
        axes.axvline(rung, color="0.8", linewidth=1.0, zorder=0)
    for point in points:
        for run in point.runs:
            kind = _BEST if point is best else run.state
            if run.series:
                kinds.add(kind)
                epochs, values = zip(*run.series, strict=True)
                # A single value has no line.
                mark = _MARKS.get(kind) or ("o" if len(epochs) == 1 else None)
                style = {**_STYLES[kind], **(pale if kind != _BEST else {})}
                axes.plot(epochs, values, marker=mark, markevery=[-1], markersize=5, **style)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return kinds
