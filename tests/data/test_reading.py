import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metaug_ray.data.reading import read_rgb
from metaug_ray.data.sources.record import Record
from tests.data.images import picture, stored


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


def bytes_of(record: Record) -> bytes:
    assert isinstance(record.image, bytes)
    return record.image


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(png: bytes, added: bytes) -> bytes:
    """The PNG with a chunk right after its header."""
    return png[:33] + added + png[33:]


PIXELS = picture(7)
PNG = bytes_of(stored(Image.fromarray(PIXELS), "PNG"))
LARGE = zlib.compress(bytes(2 << 20))


@pytest.mark.parametrize(
    "added",
    [
        chunk(b"zTXt", b"note\0\0" + LARGE),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
        chunk(b"iCCP", b"profile\0\0" + LARGE),
        chunk(b"iCCP", b"profile\0\0 no profile"),
        chunk(b"eXIf", b"\x00\x08\x00\x02\x01\x12\x00\x03"),
        chunk(b"pHYs", bytes(9))[:-1] + b"?",
        chunk(b"pHYs", b""),
        chunk(b"gAMA", b"1"),
    ],
    ids=["zTXt", "iTXt", "iCCP", "broken iCCP", "broken eXIf", "wrong CRC", "empty pHYs", "short gAMA"],
)
def test_what_lies_beside_the_pixels_of_a_png_does_not_matter(added: bytes) -> None:
    assert np.array_equal(read_rgb(Record("x", 0, with_chunk(PNG, added))), PIXELS)


def test_a_png_with_broken_notes_is_still_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    png = bytes_of(stored(Image.fromarray(PIXELS), "PNG", exif=exif))
    read = read_rgb(Record("x", 0, with_chunk(png, chunk(b"zTXt", b"note\0\0" + LARGE))))
    assert np.array_equal(read, np.rot90(PIXELS, 3))


def test_a_png_without_its_end_is_whole() -> None:
    assert np.array_equal(read_rgb(Record("x", 0, PNG[:-12])), PIXELS)


def test_a_png_whose_pixels_are_cut_off_is_refused() -> None:
    png = bytes_of(stored(Image.fromarray(picture(8, 200, 200)), "PNG"))
    with pytest.raises(OSError, match="truncated"):
        read_rgb(Record("x", 0, png[: len(png) // 2]))


@pytest.mark.parametrize("lost", [1, 2])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_without_its_end_marker_is_whole(lost: int, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    jpeg = bytes_of(stored(Image.fromarray(picture(9, 45, 70)), "JPEG", exif=exif))
    assert np.array_equal(read_rgb(Record("x", 0, jpeg[:-lost])), read_rgb(Record("x", 0, jpeg)))


def test_zeros_in_the_place_of_the_end_marker() -> None:
    jpeg = bytes_of(stored(Image.fromarray(picture(9, 45, 70)), "JPEG"))
    assert np.array_equal(read_rgb(Record("x", 0, jpeg[:-2] + bytes(500))), read_rgb(Record("x", 0, jpeg)))


@pytest.mark.parametrize("other", [bytes(30_000), b"<html>" * 5000, b"\xff" * 30_000, b""], ids=["0", "<", "ff", "-"])
def test_half_a_jpeg_and_something_else_is_refused(other: bytes) -> None:
    noise = np.random.default_rng(0).integers(256, size=(200, 200, 3), dtype=np.uint8)
    for pixels in (noise, picture(3, 200, 200)):
        jpeg = bytes_of(stored(Image.fromarray(pixels), "JPEG"))
        with pytest.raises(OSError, match="truncated"):
            read_rgb(Record("x", 0, jpeg[: len(jpeg) // 2] + other))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 3}, {"optimize": True}])
@pytest.mark.parametrize("lost", [8, 40, 400])
def test_a_jpeg_that_lacks_pixels_is_refused(options: dict[str, int], lost: int) -> None:
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    jpeg = bytes_of(stored(Image.fromarray(noise), "JPEG", **options))
    with pytest.raises(OSError, match="truncated"):
        read_rgb(Record("x", 0, jpeg[:-lost]))


@pytest.mark.parametrize("exif", [b"Exif\0\0garbage header!!", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0"])
def test_a_jpeg_with_broken_exif_is_taken_as_it_is(exif: bytes) -> None:
    image = Image.fromarray(PIXELS)
    plain = read_rgb(stored(image, "JPEG", dpi=(72, 72)))
    assert np.array_equal(read_rgb(stored(image, "JPEG", dpi=(72, 72), exif=exif)), plain)


@pytest.mark.parametrize("greatest", [255, 1023, 65535])
def test_a_pgm_scales_by_its_own_greatest_value(greatest: int) -> None:
    levels = np.linspace(0, greatest, 1024).astype(">u2" if greatest > 255 else np.uint8)
    image = b"P5\n32 32\n%d\n" % greatest + levels.tobytes()
    expected = levels.reshape(32, 32).astype(float) * 255 / greatest
    assert np.abs(read_rgb(Record("x", 0, image))[..., 0] - expected).max() <= 1


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1",
            r"a pointer of Git LFS; fetch .* `git lfs pull`",
        ),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), "a HEIC picture, which is not read"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing, which is not read"),
        (PNG[:12] + b"XXXX" + PNG[16:], "a PNG whose beginning is broken"),
        (b"\xff\xd8\xff\xe0", "a JPEG whose beginning is broken"),
        (json.dumps({"error": 404}).encode(), "it is not an image"),
    ],
)
def test_what_is_no_image_is_called_what_it_is(content: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        read_rgb(Record("x", 0, content))
