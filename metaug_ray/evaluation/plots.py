"""Figures of one evaluation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import confusion_matrix

from metaug_ray.evaluation.labels import shown

MOST_CLASSES = 20
"""That colours can tell apart."""


def draw_map(representations: NDArray[np.float32], labels: NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    """t-SNE of representations, coloured by class.

    Args:
        representations: [N, H], N at least 4.
        labels: [N], below `MOST_CLASSES`.
        names: of the classes.
        path: PNG to write.
    """
    scale = np.linalg.norm(representations, axis=1, keepdims=True).clip(1e-12)
    perplexity = min(30.0, (len(labels) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", metric="cosine", random_state=0).fit_transform(
        representations / scale
    )
    with shown(names) as texts:
        figure = Figure(figsize=(7, 6), layout="constrained")
        axes = figure.subplots()
        palette = _palette()
        for label in np.unique(labels):
            members = places[labels == label]
            axes.scatter(members[:, 0], members[:, 1], s=5, color=palette[label], label=texts[label])
        axes.set(xticks=[], yticks=[], title=f"t-SNE of {len(labels):,} representations")
        axes.legend(frameon=False, fontsize=8, markerscale=3, loc="center left", bbox_to_anchor=(1, 0.5))
        figure.savefig(path, dpi=120)


def draw_confusion(
    predictions: NDArray[np.int64], labels: NDArray[np.int64], names: Sequence[str], title: str, path: Path
) -> None:
    """How often each class was taken for each other one, in per cent of its images.

    Args:
        predictions, labels: [N], from 0 on.
        names: of the C classes.
        title: which classifier.
        path: PNG to write.
    """
    classes = len(names)
    counts = confusion_matrix(labels, predictions, labels=range(classes))
    shares = 100 * counts / counts.sum(1, keepdims=True).clip(1)
    with shown(names if classes <= MOST_CLASSES else ()) as texts:
        figure = Figure(figsize=(6.5, 5.5), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
        figure.colorbar(image, ax=axes, label="% of the class")
        if texts:
            axes.set_xticks(range(classes), texts, rotation=60, ha="right", fontsize=8)
            axes.set_yticks(range(classes), texts, fontsize=8)
            _write_shares(axes, shares)
        axes.set(xlabel="taken for", ylabel="class", title=title)
        figure.savefig(path, dpi=120)


def _write_shares(axes: Axes, shares: NDArray[np.float64]) -> None:
    for row, column in np.ndindex(shares.shape):
        if shares[row, column] >= 0.5:
            colour = "white" if shares[row, column] > 55 else "black"
            axes.text(column, row, f"{shares[row, column]:.0f}", ha="center", va="center", fontsize=7, color=colour)


def draw_neighbours(
    queries: NDArray[np.uint8],
    neighbours: NDArray[np.uint8],
    right: NDArray[np.bool_],
    similarities: NDArray[np.float32],
    path: Path,
) -> None:
    """Test images, and beside each its nearest training images; framed green where the class is the same, else red.

    Args:
        queries: uint8 [Q, S, S, 3].
        neighbours: uint8 [Q, k, S, S, 3], nearest first.
        right: [Q, k], whether of the query's class.
        similarities: cosines [Q, k].
        path: PNG to write.
    """
    count, k = neighbours.shape[:2]
    figure = Figure(figsize=(1.1 * (k + 1.3), 1.15 * count), layout="constrained")
    grid = figure.subplots(count, k + 1, squeeze=False)
    for row in range(count):
        for column, axes in enumerate(grid[row]):
            axes.imshow(queries[row] if column == 0 else neighbours[row, column - 1])
            axes.set(xticks=[], yticks=[])
            if column:
                colour = "tab:green" if right[row, column - 1] else "tab:red"
                axes.spines[:].set(color=colour, linewidth=2.5)
                axes.set_xlabel(f"{similarities[row, column - 1]:.2f}", fontsize=7, labelpad=1)
    grid[0][0].set_title("query", fontsize=8)
    grid[0][1].set_title("nearest", fontsize=8)
    figure.suptitle("cosine similarities; green: of the query's class, red: of another", fontsize=8)
    figure.savefig(path, dpi=120)


def _palette() -> list[tuple[float, ...]]:
    return [tuple(colour) for colour in colormaps["tab20"](np.arange(MOST_CLASSES))]
