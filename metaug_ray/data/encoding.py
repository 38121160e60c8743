"""One image from what the user has to what a beton stores.

Worker processes import this, so it imports neither torch nor FFCV.
"""

import io
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from metaug_ray.data.sources.record import Record

# Pillow takes pictures of more than 179 million pixels for attacks; these are the user's own, and satellites make them.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class Encoding:
    """How the images of a beton are stored.

    Attributes:
        kind: "raw" pixels (exact, fast to read, large), "jpeg", or "mixed" (a share of the images as JPEG, the rest
        raw).
        max_resolution: longer side in pixels; larger images are shrunk by area averaging, smaller ones left alone.
        jpeg_quality: 1 to 100.
        jpeg_fraction: share of the images that "mixed" stores as JPEG, spread evenly.
    """

    kind: Literal["raw", "jpeg", "mixed"]
    max_resolution: int
    jpeg_quality: int = 90
    jpeg_fraction: float = 0.5

    def is_jpeg(self, position: int) -> bool:
        """Whether the image at this position of the source becomes JPEG."""
        if self.kind == "mixed":
            return int((position + 1) * self.jpeg_fraction) > int(position * self.jpeg_fraction)
        return self.kind == "jpeg"


@dataclass(frozen=True)
class EncodedImage:
    """An image as the beton stores it, with the CRC-32 of its bytes."""

    label: int
    height: int
    width: int
    is_jpeg: bool
    data: bytes
    crc: int


@dataclass(frozen=True)
class Unreadable:
    """An image that could not be decoded."""

    name: str
    reason: str


def encode(position: int, record: Record, encoding: Encoding) -> EncodedImage | Unreadable:
    """Reads, converts, shrinks and stores one image."""
    try:
        pixels = shrink(read_rgb(record), encoding.max_resolution)
    except MemoryError:
        raise
    # Decoders raise nearly everything (SyntaxError and struct.error among them) on broken files.
    except Exception as error:
        return Unreadable(record.name, _reason(record, error))
    is_jpeg = encoding.is_jpeg(position)
    data = encode_jpeg(pixels, encoding.jpeg_quality) if is_jpeg else pixels.tobytes()
    height, width, _ = pixels.shape
    return EncodedImage(record.label, height, width, is_jpeg, data, zlib.crc32(data))


def read_rgb(record: Record) -> NDArray[np.uint8]:
    """Pixels of a record as uint8 RGB [H, W, 3].

    Files are recognised by their content, not their name. The EXIF orientation is applied; grey, palette, CMYK and
    transparent images are converted by Pillow (transparency is dropped, as torchvision drops it); 16-bit grey keeps its
    upper eight bits.

    Raises:
        ValueError: pixels of another shape or type, or a mode that has no agreed range (32-bit integers, floats).
        OSError: an image that Pillow cannot decode.
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
        with Image.open(io.BytesIO(data)) as opened:
            opened.load()
            upright = ImageOps.exif_transpose(opened)
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            elif upright.mode in ("I", "F"):
                raise ValueError(
                    f"its mode is {upright.mode!r}, 32 bits a pixel with no agreed range; convert it to 8 or 16 bits"
                )
            return np.array(upright.convert("RGB"))


def shrink(pixels: NDArray[np.uint8], max_resolution: int) -> NDArray[np.uint8]:
    """Pixels [H, W, 3] whose longer side is at most `max_resolution`, by area averaging."""
    height, width, _ = pixels.shape
    longer = max(height, width)
    if longer <= max_resolution:
        return pixels
    size = (max(1, round(width * max_resolution / longer)), max(1, round(height * max_resolution / longer)))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)


def encode_jpeg(pixels: NDArray[np.uint8], quality: int) -> bytes:
    """RGB pixels [H, W, 3] as a baseline JPEG with 4:2:0 chroma."""
    done, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError(f"OpenCV cannot encode {list(pixels.shape)} pixels as JPEG")
    return bytes(data)


def _reason(record: Record, error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    # Pillow names the buffer, not the file, where it recognises nothing.
    text = "it is not an image" if type(error).__name__ == "UnidentifiedImageError" else str(error)
    return text or type(error).__name__
