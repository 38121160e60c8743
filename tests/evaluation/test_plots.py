from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from metaug_ray.evaluation.plots import Encoded, draw_comparison

GREEN, RED = (44, 160, 44), (214, 39, 40)  # matplotlib's tab:green and tab:red


@pytest.mark.parametrize("count", [1, 2])
def test_frames_say_whether_neighbours_are_of_the_querys_class(tmp_path: Path, count: int) -> None:
    labels = np.arange(8) % 2
    grey = np.full((2, 16, 16, 3), 127, np.uint8)
    for right in (True, False):
        encoded = Encoded(
            "an encoder",
            np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32),
            np.stack([grey] * 3, 1),
            np.full((2, 3), right),
        )
        path = tmp_path / "picture.png"
        draw_comparison([encoded] * count, labels, grey, ("a", "b"), path)
        pixels = np.rint(imread(path)[..., :3] * 255)
        green, red = ((pixels == colour).all(-1).sum() for colour in (GREEN, RED))
        shown, hidden = (green, red) if right else (red, green)
        assert shown > 1000 * count
        assert not hidden
