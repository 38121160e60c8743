from pathlib import Path

import torch
from torchvision.io import decode_image

from metaug_ray.tracking.figures import draw_curves, draw_histograms


def coloured(path: Path) -> torch.Tensor:
    """Where a figure is neither white nor grey nor black."""
    pixels = decode_image(str(path))[:3].int()
    return (pixels.amax(0) - pixels.amin(0)) > 40


def test_histograms_lie_where_the_similarities_are(tmp_path: Path) -> None:
    bins = [0.0] * 100
    low, high = bins.copy(), bins.copy()
    low[5:10], high[90:95] = [0.2] * 5, [0.2] * 5
    draw_histograms({"positives": high, "negatives": low}, 1234, tmp_path / "a.png")
    columns = coloured(tmp_path / "a.png")[60:300].any(0).nonzero().flatten()
    width = coloured(tmp_path / "a.png").shape[1]
    assert columns.min() < 0.25 * width
    assert columns.max() > 0.85 * width
    draw_histograms({"positives": high, "negatives": high}, 1234, tmp_path / "b.png")
    left = coloured(tmp_path / "b.png")[250:350, : width // 3]  # below the legend
    assert not left.any()


def test_curves_of_what_there_is(tmp_path: Path) -> None:
    assert not draw_curves({}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    long = [(step, 1 / step) for step in range(1, 50_000)]
    draw_curves({"loss/total": long}, tmp_path / "one.png")
    draw_curves({"loss/total": long, "knn/accuracy": [(0, 0.1), (9, 0.3)]}, tmp_path / "two.png")
    assert coloured(tmp_path / "two.png").shape[1] > 1.8 * coloured(tmp_path / "one.png").shape[1]
    ranks = {f"rankme/{view}": [(0, 1.0), (9, 5.0)] for view in ("l", "ab", "mean")}
    draw_curves({"loss/total": long} | ranks, tmp_path / "ranks.png")
    assert coloured(tmp_path / "ranks.png").shape == coloured(tmp_path / "two.png").shape
