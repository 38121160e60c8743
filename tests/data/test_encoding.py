import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from metaug_ray.data.encoding import EncodedImage, Encoding, Looks, Unreadable, encode, looks_of, shrink
from metaug_ray.data.sources.record import Record
from tests.data.images import picture, stored
from tests.data.nobody import as_nobody, needs_root

RAW, JPEG = Encoding("raw", 512), Encoding("jpeg", 512)


def truncated_jpeg() -> bytes:
    data = stored(Image.fromarray(picture(5, 200, 200)), "JPEG").image
    assert isinstance(data, bytes)
    return data[: len(data) // 2]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"<html>not found</html>", "not an image"),
        (truncated_jpeg(), "truncated"),
        (b"\x89PNG\r\n\x1a\n" + b"\x00" * 40, ""),
    ],
)
def test_unreadable_images_are_told_with_their_name(data: bytes, reason: str) -> None:
    result = encode(0, Record("tree/cat/1.jpg", 0, data), RAW)
    assert isinstance(result, Unreadable)
    assert result.name == "tree/cat/1.jpg"
    assert reason in result.reason
    assert result.reason


def test_a_missing_file_is_unreadable(tmp_path: Path) -> None:
    assert encode(0, Record("x", 0, tmp_path / "x.png"), RAW) == Unreadable("x", "No such file or directory")


@needs_root
def test_a_file_without_permission_is_unreadable(tmp_path: Path) -> None:
    file = tmp_path / "x.png"
    Image.fromarray(picture(0)).save(file)
    file.chmod(0o600)
    answer = as_nobody(tmp_path, lambda: encode(0, Record("x", 0, file), RAW))
    assert answer == str(Unreadable("x", "Permission denied"))


def test_pixels_without_an_agreed_range_are_refused() -> None:
    result = encode(0, stored(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), RAW)
    assert isinstance(result, Unreadable)
    assert "numbers with no agreed range" in result.reason


def test_pixels_of_another_shape_are_refused() -> None:
    result = encode(0, Record("x", 0, np.zeros((4, 4), np.uint8)), RAW)
    assert result == Unreadable("x", "pixels are uint8 [4, 4], expected uint8 [H, W, 3]")


def test_raw_is_exact_and_jpeg_is_near() -> None:
    pixels = picture(6, 48, 64)
    raw = encode(0, Record("x", 3, pixels), RAW)
    assert isinstance(raw, EncodedImage)
    assert raw.data == pixels.tobytes()
    assert (raw.label, raw.height, raw.width, raw.is_jpeg) == (3, 48, 64, False)
    jpeg = encode(0, Record("x", 3, pixels), JPEG)
    assert isinstance(jpeg, EncodedImage)
    assert jpeg.is_jpeg
    decoded = np.asarray(Image.open(io.BytesIO(jpeg.data)))
    assert np.abs(decoded.astype(int) - pixels).mean() < 3


@pytest.mark.parametrize(
    ("height", "width", "expected"), [(100, 50, (32, 16)), (50, 100, (16, 32)), (32, 20, (32, 20))]
)
def test_shrinks_the_longer_side_only(height: int, width: int, expected: tuple[int, int]) -> None:
    assert shrink(picture(0, height, width), 32).shape[:2] == expected


def test_shrinking_averages_areas() -> None:
    pixels: NDArray[np.uint8] = np.random.default_rng(0).integers(256, size=(8, 8, 3), dtype=np.uint8)
    means = pixels.reshape(4, 2, 4, 2, 3).mean(axis=(1, 3))
    assert np.abs(shrink(pixels, 4) - means).max() <= 0.5


def test_mixed_spreads_its_share_of_jpegs() -> None:
    encoding = Encoding("mixed", 512, jpeg_fraction=0.25)
    chosen = [encoding.is_jpeg(position) for position in range(400)]
    assert sum(chosen) == 100
    assert all(sum(chosen[start : start + 40]) == 10 for start in range(0, 400, 40))


@pytest.mark.parametrize(
    ("pixels", "looks"),
    [
        (picture(0, 40, 40), Looks()),
        (np.repeat(picture(0, 40, 40)[..., :1], 3, axis=2), Looks(grey=True)),
        (np.full((40, 40, 3), (9, 200, 9), np.uint8), Looks(one_colour=True)),
        (np.zeros((40, 40, 3), np.uint8), Looks(grey=True, one_colour=True)),
        (picture(0, 40, 40) // 16, Looks(dark=True)),
    ],
)
def test_what_a_picture_lacks(pixels: NDArray[np.uint8], looks: Looks) -> None:
    assert looks_of(pixels) == looks
    result = encode(0, Record("x", 0, pixels), RAW)
    assert isinstance(result, EncodedImage)
    assert result.looks == looks


def test_one_pixel_is_enough() -> None:
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[21, 13] = (0, 0, 90)
    assert looks_of(pixels) == Looks()
