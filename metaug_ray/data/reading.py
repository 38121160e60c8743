"""Pixels of one image, whatever its file is. Worker processes import this, so it imports neither torch nor FFCV."""

import io
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from metaug_ray.data.repair import lacks_its_end, sound_versions
from metaug_ray.data.sources.record import Record

# Pillow takes pictures of more than 179 million pixels for attacks; these are the user's own, and satellites make them.
Image.MAX_IMAGE_PIXELS = None

# By the orientation of EXIF.
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# What files that are no pictures begin with, or hold a little later.
_OTHERS: Final = (
    (b"version https://git-lfs", "it is a pointer of Git LFS; fetch the files with `git lfs pull`"),
    (b"ftypheic", "it is a HEIC picture, which is not read; convert it to JPEG or PNG"),
    (b"ftypheix", "it is a HEIC picture, which is not read; convert it to JPEG or PNG"),
    (b"ftypmif1", "it is a HEIF picture, which is not read; convert it to JPEG or PNG"),
    (b"<svg", "it is an SVG drawing, which is not read; convert it to PNG"),
    (b"\x89PNG", "it is a PNG whose beginning is broken"),
    (b"\xff\xd8\xff", "it is a JPEG whose beginning is broken"),
)


def read_rgb(record: Record) -> NDArray[np.uint8]:
    """Pixels of a record as uint8 RGB [H, W, 3].

    Files are recognised by their content, not their name. The EXIF orientation is applied where it can be read; grey,
    palette, CMYK and transparent images are converted by Pillow (transparency is dropped, as torchvision drops it);
    16-bit grey keeps its upper eight bits. What is broken or too large beside the pixels (texts, profiles, EXIF, a
    JPEG's end marker) does not matter.

    Raises:
        ValueError: not an image, pixels of another shape or type, or a mode that has no agreed range (32-bit integers,
            floats).
        OSError: a file that cannot be read, or pixels that cannot be decoded.
    """
    image = record.image
    if callable(image):
        image = image()
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"pixels are {image.dtype} {list(image.shape)}, expected uint8 [H, W, 3]")
        return np.ascontiguousarray(image)
    data = image.read_bytes() if isinstance(image, Path) else image
    if not data:
        raise ValueError("it has zero bytes")
    with warnings.catch_warnings():
        # A palette with transparency, a large picture, odd EXIF: converted all the same.
        warnings.simplefilter("ignore")
        return _as_rgb(_opened(data))


def _opened(data: bytes) -> Image.Image:
    try:
        # Pillow takes whatever follows half a picture for its other half.
        if lacks_its_end(data):
            raise OSError("image file is truncated")
        return _loaded(data)
    except MemoryError:
        raise
    # Decoders raise nearly everything (SyntaxError and struct.error among them) on broken files.
    except Exception as error:
        for version in sound_versions(data):
            with suppress(Exception):
                return _loaded(version)
        # Pillow names the buffer, not the file, where it recognises nothing.
        if isinstance(error, UnidentifiedImageError):
            raise ValueError(what_else(data[:100], "it is not an image")) from error
        raise


def what_else(beginning: bytes, unknown: str) -> str:
    """What a file is that is not what its name says, by its first hundred bytes; `unknown` where they do not tell."""
    return next((words for mark, words in _OTHERS if mark in beginning), unknown)


def _loaded(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def _as_rgb(image: Image.Image) -> NDArray[np.uint8]:
    turn = _TURNS.get(_orientation(image))
    upright = image if turn is None else image.transpose(turn)
    # Pillow stretches the levels of a PGM of more than eight bits to sixteen.
    if upright.mode.startswith("I;16") or (upright.mode == "I" and image.format == "PPM"):
        return np.array(Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8)).convert("RGB"))
    if upright.mode in ("I", "F"):
        raise ValueError(
            f"its mode is {upright.mode!r}, numbers with no agreed range; convert it to 8 bits, or to 16 bits without "
            "a sign"
        )
    return np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    # Broken EXIF says nothing of the orientation.
    except Exception:
        return 1
