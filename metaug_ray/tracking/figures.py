"""Figures of a run."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from metaug_ray.config.pretrain import KNN_ACCURACY

_LOSSES = ("loss/total", "loss/original", "loss/augmented")
_SIMILARITIES = {
    "similarity/positives_mean": "positives",
    "similarity/negatives_mean": "negatives",
    "similarity/augmented_positives_mean": "augmented positives",
    "similarity/augmented_negatives_mean": "augmented negatives",
}
_MOST_POINTS = 2000

Series = dict[str, list[tuple[int, float]]]
"""(step, value) by metric."""


def draw_histograms(histograms: Mapping[str, Sequence[float]], step: int, path: Path) -> None:
    """Similarities of positives and negatives over [0, 1], as the paper's figure 2; original features solid, augmented
    ones as lines.

    Args:
        histograms: shares by kind, as `metaug_ray.training.health.similarity_histograms` gives them.
        step: at which they were taken.
        path: PNG to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    colours = {"positives": "tab:orange", "negatives": "tab:blue"}
    for kind, shares in histograms.items():
        edges = [i / len(shares) for i in range(len(shares) + 1)]
        colour = colours[kind.removeprefix("augmented_")]
        filled = not kind.startswith("augmented_")
        axes.stairs(
            shares,
            edges,
            fill=filled,
            alpha=0.5 if filled else 1.0,
            color=colour,
            linestyle="-" if filled else "--",
            label=kind.replace("_", " "),
        )
    axes.set(xlim=(0, 1), xlabel="similarity d", ylabel="share of pairs", title=f"step {step:,}")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def draw_curves(series: Series, path: Path) -> bool:
    """Losses, mean similarities, kNN accuracy and RankMe over the steps; says whether there was anything to draw.

    Args:
        series: the run's metrics.
        path: PNG to write.
    """
    panels: list[tuple[str, dict[str, str]]] = [
        ("loss", {name: name.removeprefix("loss/") for name in _LOSSES}),
        ("mean similarity", _SIMILARITIES),
        ("kNN accuracy", {KNN_ACCURACY: "kNN"}),
        ("RankMe", {name: name.removeprefix("rankme/") for name in sorted(series) if name.startswith("rankme/")}),
    ]
    panels = [(title, {k: v for k, v in names.items() if series.get(k)}) for title, names in panels]
    panels = [(title, names) for title, names in panels if names]
    if not panels:
        return False
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(panels), 3.2), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        # Those that come later are thinner: a line may lie on another one.
        for width, (name, label) in zip(range(len(names) + 1, 1, -1), names.items(), strict=True):
            points = _thinned(series[name])
            marker = "o" if len(points) < 30 else None
            axes.plot(*zip(*points, strict=True), label=label, marker=marker, markersize=3, linewidth=width / 1.5)
        axes.set(xlabel="step", title=title)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=120)
    return True


def _thinned(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    return points[:: -(-len(points) // _MOST_POINTS)]
