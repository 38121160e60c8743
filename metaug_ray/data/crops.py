"""Which part of each image a batch shows."""

import numpy as np
from numpy.typing import NDArray

from metaug_ray.data.randomness import Draws

_ATTEMPTS = 10


def random_resized_crops(
    draws: Draws,
    heights: NDArray[np.int64],
    widths: NDArray[np.int64],
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> NDArray[np.int64]:
    """Boxes of random area and aspect ratio, by the rules of torchvision's `RandomResizedCrop`.

    Args:
        draws: of the N images.
        heights, widths: [N], in pixels.
        scale: least and greatest share of the area.
        ratio: least and greatest width / height.

    Returns:
        (top, left, height, width) [N, 4], in pixels. An image that ten attempts do not fit gets the largest central
        box of an allowed ratio.
    """
    boxes = _largest_central(heights, widths, ratio)
    open_rows = np.ones(len(heights), dtype=bool)
    for attempt in range(_ATTEMPTS):
        remaining = draws.select(open_rows)
        height, width = heights[open_rows], widths[open_rows]
        area = height * width * remaining.uniform(f"crop area {attempt}", *scale)
        aspect = np.exp(remaining.uniform(f"crop ratio {attempt}", *np.log(ratio)))
        w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
        h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
        fits = (w > 0) & (w <= width) & (h > 0) & (h <= height)
        top = (remaining.uniform(f"crop top {attempt}") * (height - h + 1)).astype(np.int64)
        left = (remaining.uniform(f"crop left {attempt}") * (width - w + 1)).astype(np.int64)
        rows = np.flatnonzero(open_rows)[fits]
        boxes[rows] = np.stack([top, left, h, w], axis=1)[fits]
        open_rows[rows] = False
        if not open_rows.any():
            break
    return boxes


def central_crops(heights: NDArray[np.int64], widths: NDArray[np.int64], share: float) -> NDArray[np.int64]:
    """Central squares whose side is `share` of the shorter side.

    With `share` 224 / 256 this is the usual evaluation crop, "shorter side to 256, then the central 224".

    Returns:
        (top, left, height, width) [N, 4], in pixels.
    """
    side = np.maximum(1, np.rint(np.minimum(heights, widths) * share).astype(np.int64))
    return np.stack([(heights - side) // 2, (widths - side) // 2, side, side], axis=1)


def _largest_central(
    heights: NDArray[np.int64], widths: NDArray[np.int64], ratio: tuple[float, float]
) -> NDArray[np.int64]:
    w = np.clip(np.rint(heights * ratio[1]).astype(np.int64), 1, widths)
    h = np.clip(np.rint(widths / ratio[0]).astype(np.int64), 1, heights)
    return np.stack([(heights - h) // 2, (widths - w) // 2, h, w], axis=1)
