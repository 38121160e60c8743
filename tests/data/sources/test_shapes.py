import pickle
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from metaug_ray.data.sources.record import Record
from metaug_ray.data.sources.shapes import Shapes

CLASSES = len(Shapes.classes)


def pixels(record: Record) -> NDArray[np.uint8]:
    assert callable(record.image)
    return record.image()


def images(source: Shapes) -> NDArray[np.uint8]:
    return np.stack([pixels(record) for record in source])


def knn_accuracy(features: NDArray[np.float64], labels: NDArray[np.int64], neighbours: int = 20) -> float:
    """Leave-one-out, by Euclidean distance."""
    squares = (features**2).sum(1)
    distances = squares[:, None] + squares - 2 * features @ features.T
    np.fill_diagonal(distances, np.inf)
    nearest = labels[np.argpartition(distances, neighbours, axis=1)[:, :neighbours]]
    votes = (nearest[:, :, None] == np.arange(CLASSES)).sum(1)
    return float((votes.argmax(1) == labels).mean())


def test_an_image_is_the_same_in_another_object_and_in_another_process() -> None:
    source = Shapes(16)
    first = images(source)
    assert (first == images(source)).all()
    assert (first == images(Shapes(16))).all()
    assert (first == np.stack([pixels(pickle.loads(pickle.dumps(record))) for record in source])).all()
    assert (first == images(Shapes(32))[:16]).all()


def test_another_seed_and_another_index_give_another_image() -> None:
    first, second = images(Shapes(64, seed=1)), images(Shapes(64, seed=2))
    assert len(np.unique(np.concatenate([first, second]).reshape(128, -1), axis=0)) == 128


def test_classes_are_named_and_balanced() -> None:
    assert len(set(Shapes.classes)) == CLASSES
    source = Shapes(CLASSES * 5 + 3)
    records = list(source)
    assert len(records) == len(source) == CLASSES * 5 + 3
    assert [record.name for record in records[:2]] == ["shapes[0]", "shapes[1]"]
    assert [record.label for record in records] == source.labels.tolist()
    counts = Counter(record.label for record in records)
    assert set(counts) == set(range(CLASSES))
    assert set(counts.values()) == {5, 6}


@pytest.mark.parametrize("size", [16, 33, 64, 512])
def test_every_class_renders_at_every_size(size: int) -> None:
    made = images(Shapes(CLASSES, size))
    assert made.shape == (CLASSES, size, size, 3)
    assert made.dtype == np.uint8
    assert (made.std((1, 2)) > 3).all()


def test_a_larger_image_is_the_same_picture() -> None:
    small, large = (images(Shapes(CLASSES, size)).astype(float) for size in (32, 256))
    pooled = large.reshape(CLASSES, 32, 8, 32, 8, 3).mean((2, 4))
    # Edges are blurred over a pixel, and the noise of +-8 is drawn pixel by pixel.
    assert np.abs(pooled - small).mean() < 12
    assert np.abs(pooled - np.roll(small, 1, axis=0)).mean() > 24


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": CLASSES - 1}, f"count is {CLASSES - 1}: shapes have {CLASSES} classes and need an image of each"),
        ({"count": 100, "size": 15}, "size is 15: shapes are drawn at 16 to 512 pixels"),
        ({"count": 100, "size": 513}, "size is 513: shapes are drawn at 16 to 512 pixels"),
        ({"count": 100, "seed": -1}, "seed is -1: it must be at least 0"),
    ],
)
def test_arguments_out_of_range_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Shapes(**arguments)


def test_colour_varies_within_a_class_as_much_as_over_all_and_does_not_give_it_away() -> None:
    source = Shapes(1024, 32)
    labels = np.array([record.label for record in source])
    means = images(source).mean((1, 2))
    spread = np.stack([means[labels == label].std(0) for label in range(CLASSES)])
    assert (spread > 12).all()
    assert (spread > 0.75 * means.std(0)).all()
    # Chance is 0.125, and the standard error of 1024 images 0.010.
    assert knn_accuracy(means, labels) < 0.125 + 0.05
    centres = np.stack([means[labels == label].mean(0) for label in range(CLASSES)])
    assert np.abs(centres - means.mean(0)).max() < 10


def test_neighbours_by_raw_pixels_are_seldom_of_the_same_class() -> None:
    source = Shapes(1024, 32)
    labels = np.array([record.label for record in source])
    flat = images(source).reshape(1024, -1).astype(float)
    assert knn_accuracy(flat, labels) < 2 * 0.125 + 0.02


def test_workers_that_draw_do_not_load_torch() -> None:
    code = "import sys, metaug_ray.data.sources.shapes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
