import math

import numpy as np
import pytest
from numpy.typing import NDArray

from metaug_ray.data.crops import central_crops, random_resized_crops
from metaug_ray.data.randomness import Draws

SCALE, RATIO = (0.2, 1.0), (3 / 4, 4 / 3)


def one_crop(
    seed: int, index: int, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop.get_params, read line by line, with our numbers."""
    draws = Draws(seed, 0, np.array([index]))
    for attempt in range(10):
        area = height * width * draws.uniform(f"crop area {attempt}", *scale)[0]
        aspect = math.exp(draws.uniform(f"crop ratio {attempt}", math.log(ratio[0]), math.log(ratio[1]))[0])
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            top = int(draws.uniform(f"crop top {attempt}")[0] * (height - h + 1))
            left = int(draws.uniform(f"crop left {attempt}")[0] * (width - w + 1))
            return top, left, h, w
    if width / height < ratio[0]:
        w, h = width, round(width / ratio[0])
    elif width / height > ratio[1]:
        w, h = round(height * ratio[1]), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def sizes(count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    generator = np.random.default_rng(0)
    return generator.integers(20, 500, count), generator.integers(20, 500, count)


@pytest.mark.parametrize(
    ("scale", "ratio"), [(SCALE, RATIO), ((0.08, 1.0), RATIO), ((0.9, 1.0), (0.99, 1.01)), ((1.0, 1.0), (1.0, 1.0))]
)
def test_follows_torchvision_rule_by_rule(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    heights, widths = sizes(300)
    boxes = random_resized_crops(Draws(3, 0, np.arange(300)), heights, widths, scale, ratio)
    for index in range(300):
        expected = one_crop(3, index, int(heights[index]), int(widths[index]), scale, ratio)
        assert tuple(boxes[index]) == expected


def test_boxes_lie_inside() -> None:
    heights, widths = sizes(5000)
    top, left, h, w = random_resized_crops(Draws(0, 1, np.arange(5000)), heights, widths, SCALE, RATIO).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (h > 0).all()
    assert (w > 0).all()
    assert (top + h <= heights).all()
    assert (left + w <= widths).all()


def test_areas_spread_over_the_scale() -> None:
    side = np.full(20_000, 400)
    _, _, h, w = random_resized_crops(Draws(0, 0, np.arange(20_000)), side, side, (0.2, 0.6), RATIO).T
    share = h * w / 400**2
    assert share.min() == pytest.approx(0.2, abs=0.01)
    assert share.max() == pytest.approx(0.6, abs=0.01)
    assert share.mean() == pytest.approx(0.4, abs=0.01)


def test_central_crop_is_the_square_of_the_shorter_side() -> None:
    boxes = central_crops(np.array([256, 100]), np.array([512, 101]), 224 / 256)
    assert boxes.tolist() == [[16, 144, 224, 224], [6, 6, 88, 88]]
