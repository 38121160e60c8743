"""Figures of one evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
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
    with shown(names) as texts:
        figure = Figure(figsize=(7, 6), layout="constrained")
        axes = figure.subplots()
        _scatter(axes, representations, labels, texts)
        axes.set_title(f"t-SNE of {len(labels):,} representations")
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
            _show(axes, queries[row] if column == 0 else neighbours[row, column - 1])
            if column:
                _frame(axes, right[row, column - 1])
                axes.set_xlabel(f"{similarities[row, column - 1]:.2f}", fontsize=7, labelpad=1)
    grid[0][0].set_title("query", fontsize=8)
    grid[0][1].set_title("nearest", fontsize=8)
    figure.suptitle("cosine similarities; green: of the query's class, red: of another", fontsize=8)
    figure.savefig(path, dpi=120)


class Encoded(NamedTuple):
    """What one encoder makes of T test images, of which Q are shown with their k nearest training images."""

    title: str
    representations: NDArray[np.float32]
    """[T, H]."""
    neighbours: NDArray[np.uint8]
    """[Q, k, S, S, 3], nearest first."""
    right: NDArray[np.bool_]
    """[Q, k], whether of the query's class."""


def draw_comparison(
    encoders: Sequence[Encoded],
    labels: NDArray[np.int64],
    queries: NDArray[np.uint8],
    names: Sequence[str],
    path: Path,
) -> None:
    """Encoders beside one another: t-SNE of the test images above, nearest training images of some of them below.

    Args:
        encoders: what each makes of the same images.
        labels: of the test images, [T], below `MOST_CLASSES`; T at least 4.
        queries: the images whose neighbours are shown, uint8 [Q, S, S, 3].
        names: of the classes.
        path: PNG to write.
    """
    count, k = encoders[0].right.shape
    width, rows = 0.85 * (k + 1.4), 0.85 * count
    with shown(names) as texts:
        figure = Figure(figsize=(len(encoders) * width, 0.8 * width + rows + 1.4), layout="constrained")
        above, middle, below = figure.subfigures(
            3, 1, squeeze=False, height_ratios=[0.8 * width + 0.4, 0.5, rows + 0.5]
        )[:, 0]
        maps = above.subplots(1, len(encoders), squeeze=False)[0]
        grids = below.subfigures(1, len(encoders), squeeze=False, wspace=0.04)[0]
        for encoded, axes, grid in zip(encoders, maps, grids, strict=True):
            _scatter(axes, encoded.representations, labels, texts)
            axes.set_title(encoded.title, fontsize=15, pad=10)
            _neighbours(grid, queries, encoded)
        middle.legend(
            *maps[0].get_legend_handles_labels(), ncols=min(len(texts), 4), loc="center", frameon=False, markerscale=3
        )
        below.suptitle("framed green: of the query's class, red: of another", fontsize=9)
        figure.savefig(path, dpi=110, bbox_inches="tight", pad_inches=0.2)


def _neighbours(grid: SubFigure, queries: NDArray[np.uint8], encoded: Encoded) -> None:
    count, k = encoded.right.shape
    ratios = [1, 0.15] + [1] * k
    cells = grid.subplots(count, k + 2, squeeze=False, gridspec_kw={"width_ratios": ratios})
    for row in range(count):
        cells[row][1].set_axis_off()
        _show(cells[row][0], queries[row])
        for place, axes in enumerate(cells[row][2:]):
            _show(axes, encoded.neighbours[row, place])
            _frame(axes, encoded.right[row, place])
    cells[0][0].set_title("query", fontsize=9)
    cells[0][2].set_title("nearest training images", fontsize=9, loc="left")


def _scatter(axes: Axes, representations: NDArray[np.float32], labels: NDArray[np.int64], names: Sequence[str]) -> None:
    scale = np.linalg.norm(representations, axis=1, keepdims=True).clip(1e-12)
    perplexity = min(30.0, (len(labels) - 1) / 3)
    places = TSNE(perplexity=perplexity, init="pca", metric="cosine", random_state=0).fit_transform(
        representations / scale
    )
    palette = _palette()
    for label in np.unique(labels):
        members = places[labels == label]
        axes.scatter(members[:, 0], members[:, 1], s=9, color=palette[label], label=names[label])
    axes.set(xticks=[], yticks=[])


def _show(axes: Axes, image: NDArray[np.uint8]) -> None:
    axes.imshow(image)
    axes.set(xticks=[], yticks=[])


def _frame(axes: Axes, right: bool) -> None:
    axes.spines[:].set(color="tab:green" if right else "tab:red", linewidth=2.5)


def _palette() -> list[tuple[float, ...]]:
    # The ten dark colours of tab20 before their ten light sisters.
    return [tuple(colour) for colour in colormaps["tab20"](np.r_[0:MOST_CLASSES:2, 1:MOST_CLASSES:2])]
