import io
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from metaug_ray.data.encoding import EncodedImage, Encoding, Unreadable, encode, read_rgb, shrink
from metaug_ray.data.sources.record import Record
from tests.data.images import picture
from tests.data.nobody import as_nobody, needs_root

RAW, JPEG = Encoding("raw", 512), Encoding("jpeg", 512)


def stored(image: Image.Image, kind: str, **options: object) -> Record:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Record("picture", 0, file.getvalue())


def test_rgb_is_unchanged() -> None:
    pixels = picture(0)
    assert np.array_equal(read_rgb(stored(Image.fromarray(pixels), "PNG")), pixels)
    assert np.array_equal(read_rgb(Record("array", 0, pixels)), pixels)
    assert np.array_equal(read_rgb(Record("call", 0, lambda: pixels)), pixels)


def test_greyscale_repeats_its_level() -> None:
    grey = picture(1)[..., 0]
    assert np.array_equal(read_rgb(stored(Image.fromarray(grey), "PNG")), np.repeat(grey[..., None], 3, axis=2))


def test_sixteen_bit_grey_keeps_its_upper_byte() -> None:
    deep = (picture(1)[..., 0].astype(np.uint16) << 8) | 0x7F
    assert np.array_equal(read_rgb(stored(Image.fromarray(deep), "PNG"))[..., 1], picture(1)[..., 0])
    assert np.array_equal(read_rgb(stored(Image.fromarray(deep), "TIFF"))[..., 1], picture(1)[..., 0])


def test_palette_and_transparency_become_their_colours() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 8, 7]]], np.uint8)
    palette = Image.fromarray(colours).quantize(4)
    assert np.array_equal(read_rgb(stored(palette, "PNG", transparency=0)), colours)
    clear = Image.fromarray(np.dstack([colours, np.full((2, 2), 128, np.uint8)]), "RGBA")
    assert np.array_equal(read_rgb(stored(clear, "PNG")), colours)


def test_cmyk_becomes_rgb() -> None:
    pixels = picture(2)
    record = stored(Image.fromarray(pixels).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(read_rgb(record).astype(int) - pixels).mean() < 4


@pytest.mark.parametrize(("orientation", "turned"), [(3, 2), (6, 3), (8, 1)])
def test_exif_rotation_is_applied(orientation: int, turned: int) -> None:
    pixels = picture(3)
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(read_rgb(stored(Image.fromarray(pixels), "PNG", exif=exif)), np.rot90(pixels, turned))


def test_content_and_not_the_name_tells_the_format(tmp_path: Path) -> None:
    file = tmp_path / "n01440764_1.JPEG"
    Image.fromarray(picture(4)).save(file, "PNG")
    assert np.array_equal(read_rgb(Record(str(file), 0, file)), picture(4))


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
    assert "32 bits a pixel" in result.reason


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
