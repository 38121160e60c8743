"""What the parameters of a sweep matter."""

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from metaug_ray.evaluation.labels import shown
from metaug_ray.tuning.figures.style import PALETTE
from metaug_ray.tuning.scales import short_names


def draw_importances(importances: Mapping[str, Mapping[str, float]], path: Path) -> bool:
    """Bars, a panel for each group.

    Args:
        importances: of parameters by group; from 0 to 1.
        path: PNG to write.

    Returns:
        Whether there was anything to draw.
    """
    importances = {group: of_group for group, of_group in importances.items() if of_group}
    if not importances:
        return False
    names = list(dict.fromkeys(name for of_group in importances.values() for name in of_group))
    names.sort(key=lambda name: -sum(of_group.get(name, 0.0) for of_group in importances.values()))
    short = short_names(names)
    columns = min(len(importances), 3)
    rows = -(-len(importances) // columns)
    with shown(list(importances)) as titles:
        figure = Figure(figsize=(1.5 + 3.0 * columns, 0.6 + (0.6 + 0.32 * len(names)) * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes, title, of_group in zip(panels.flat, titles, importances.values(), strict=False):
            bars = axes.barh(range(len(names)), [of_group.get(name, 0.0) for name in names], color=PALETTE[0])
            axes.bar_label(bars, [f"{of_group[n]:.2f}" if n in of_group else "" for n in names], padding=3, fontsize=8)
            axes.set_yticks(range(len(names)), [short[name] for name in names], fontsize=9)
            axes.set_title(title if list(importances) != [""] else "", fontsize=10)
            axes.set_xlim(0, 1.12)
            axes.spines[["top", "right"]].set_visible(False)
        for axes in panels.flat[len(importances) :]:
            axes.set_axis_off()
        panels[0, 0].invert_yaxis()
        figure.supxlabel("importance: share of the variation of the value", fontsize=9)
        figure.savefig(path, dpi=120)
    return True
