"""Which images an evaluation's figures show; `plots` draws them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaug_ray.config.evaluate import EvaluateSettings
from metaug_ray.data.loader import EvaluationLoader
from metaug_ray.data.manifest import Manifest
from metaug_ray.evaluation.plots import MOST_CLASSES, draw_map, draw_neighbours
from metaug_ray.evaluation.stored import Labelled
from metaug_ray.knn import nearest_neighbours

_MAPPED, _SHOWN, _NEAREST = 2000, 8, 6
_HERE: Final = torch.device("cpu")


def figures(
    settings: EvaluateSettings, train: Labelled, test: Labelled, manifest: Manifest, size: int
) -> dict[str, Callable[[Path], None]]:
    """A map of the representations, and nearest neighbours as images: what draws each, by the name of its file.

    Args:
        settings: of the evaluation.
        train, test: representations of all views.
        manifest: names the classes.
        size: side of the images shown, in pixels.
    """
    generator = np.random.default_rng(0)
    some = np.sort(generator.permutation(np.flatnonzero(test.labels < MOST_CLASSES))[:_MAPPED])
    if len(some) < 4:
        return {}
    asked = some[generator.permutation(len(some))[:_SHOWN]]
    found: dict[str, Callable[[Path], None]] = {
        "map.png": lambda path: draw_map(_rows(test, some).numpy(), test.labels[some], manifest.classes, path)
    }
    # Images are read on this machine, by their numbers.
    if all("://" not in beton for beton in (settings.train, settings.test)):
        found["neighbours.png"] = partial(_draw_neighbours, settings, train, test, asked, size)
    return found


def _draw_neighbours(
    settings: EvaluateSettings, train: Labelled, test: Labelled, asked: NDArray[np.int64], size: int, path: Path
) -> None:
    references = train.blocks(np.arange(len(train.labels)), _HERE)
    found = nearest_neighbours(references, _rows(test, asked), _NEAREST)
    similarities, nearest = (part.numpy() for part in found)
    neighbours = _pixels(Path(settings.train), train.images[nearest.flatten()], size)
    draw_neighbours(
        _pixels(Path(settings.test), test.images[asked], size),
        neighbours.reshape(*nearest.shape, size, size, 3),
        train.labels[nearest] == test.labels[asked][:, None],
        similarities,
        path,
    )


def _rows(labelled: Labelled, rows: NDArray[np.int64]) -> Tensor:
    return labelled.load(rows, torch.empty(len(rows), labelled.size))


def _pixels(beton: Path, indices: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """Images by their data set indices, uint8 [n, S, S, 3]."""
    loader = EvaluationLoader(beton, len(indices), size, cpus=1, device=_HERE, images=indices)
    return next(iter(loader)).images.permute(0, 2, 3, 1).numpy()
