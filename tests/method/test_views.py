import numpy as np
import pytest
import torch
from skimage.color import rgb2lab, rgb2ydbdr
from torch import Tensor

from metaug_ray.choices import COLOR_CHANNELS
from metaug_ray.method.views import split_views, validate_views


@pytest.fixture(scope="module")
def colours() -> Tensor:
    """Every fifth value of each channel, black and white included, as two images [2, 3, 52, 1352]."""
    values = torch.arange(0, 256, 5, dtype=torch.uint8)
    grid = torch.cartesian_prod(values, values, values).T.reshape(3, 52, 52 * 52)
    return torch.stack(grid.split(26 * 52, dim=2))


def channels_last(image: Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


def test_lab_is_scikit_images(colours: Tensor) -> None:
    lightness, opponents = split_views(colours, ("l", "ab"))
    for image, light, ab in zip(colours, lightness, opponents, strict=True):
        lab = np.concatenate([(channels_last(light) + 1) * 50, channels_last(ab) * 110], -1)
        assert np.abs(lab - rgb2lab(channels_last(image))).max() < 0.01


def test_lab_keeps_its_precision_under_autocast(colours: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(split_views(colours, ("l", "ab"))[1], split_views(colours, ("l", "ab"))[1].float())
        under_autocast = split_views(colours, ("rgb", "l", "ab", "y", "dbdr"))
    for a, b in zip(under_autocast, split_views(colours, ("rgb", "l", "ab", "y", "dbdr")), strict=True):
        assert torch.equal(a, b)


def test_ydbdr_is_scikit_images(colours: Tensor) -> None:
    luma, chroma = split_views(colours, ("y", "dbdr"))
    for image, y, dbdr in zip(colours, luma, chroma, strict=True):
        expected = rgb2ydbdr(channels_last(image))
        ours = np.concatenate([(channels_last(y) + 1) / 2, channels_last(dbdr) * 1.333], -1)
        assert np.abs(ours - expected).max() < 1e-5


def test_every_view_fills_about_minus_one_to_one(colours: Tensor) -> None:
    for name, view in zip(COLOR_CHANNELS, split_views(colours, tuple(COLOR_CHANNELS)), strict=True):
        assert view.shape[1] == COLOR_CHANNELS[name]
        assert view.dtype == torch.float32
        for channel in view.unbind(1):
            assert -1.01 < channel.min() < -0.75
            assert 0.75 < channel.max() < 1.01


def test_order_and_memory_format_are_kept(colours: Tensor) -> None:
    images = colours.contiguous(memory_format=torch.channels_last)
    ab, rgb = split_views(images, ("ab", "rgb"))
    assert (ab.shape[1], rgb.shape[1]) == (2, 3)
    assert rgb.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(rgb, split_views(colours, ("rgb", "l"))[0])
    assert split_views(colours, ("rgb", "l"))[0].is_contiguous()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("rgb", "hsv"), "unknown view 'hsv': choose from rgb, l, ab, y, dbdr"),
        (("l", "ab", "l"), "view l is given 2 times"),
        (("rgb",), r"at least two views, got rgb"),
        ((), "at least two views"),
    ],
)
def test_wrong_choices_are_named(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        validate_views(names)


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.uint8)])
def test_wrong_images_are_named(images: Tensor) -> None:
    with pytest.raises(ValueError, match=r"images must be uint8 \[B, 3, H, W\], got torch\..* \[2, "):
        split_views(images, ("rgb", "l"))
