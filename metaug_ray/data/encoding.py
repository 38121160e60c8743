"""One image from what the user has to what a beton stores.

Worker processes import this, so it imports neither torch nor FFCV.
"""

import zlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from metaug_ray.data.reading import read_rgb
from metaug_ray.data.sources.record import Record

_DARK = 64


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


class Looks(NamedTuple):
    """What a picture may lack.

    Attributes:
        grey: all its pixels are grey.
        one_colour: all its pixels are the same.
        dark: no level is above 63 of 255, as with 12-bit data in 16 bits, though they are not all the same.
    """

    grey: bool = False
    one_colour: bool = False
    dark: bool = False


_ORDINARY = Looks()


@dataclass(frozen=True)
class EncodedImage:
    """An image as the beton stores it, with the CRC-32 of its bytes, and where it came from."""

    label: int
    height: int
    width: int
    is_jpeg: bool
    data: bytes
    crc: int
    looks: Looks = _ORDINARY
    name: str = ""


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
        return Unreadable(record.name, _reason(error))
    is_jpeg = encoding.is_jpeg(position)
    data = encode_jpeg(pixels, encoding.jpeg_quality) if is_jpeg else pixels.tobytes()
    height, width, _ = pixels.shape
    return EncodedImage(record.label, height, width, is_jpeg, data, zlib.crc32(data), looks_of(pixels), record.name)


def looks_of(pixels: NDArray[np.uint8]) -> Looks:
    """What pixels [H, W, 3] lack."""
    height, width, _ = pixels.shape
    # A few pixels say all of most pictures, and Python's bytes say it faster than arrays.
    few = pixels[:: max(1, height // 8), :: max(1, width // 8)].tobytes()
    is_grey = few[0::3] == few[1::3] == few[2::3]
    is_one_colour = few == few[:3] * (len(few) // 3)
    is_dark = max(few) < _DARK
    grey = is_grey and bool((pixels == pixels[..., :1]).all())
    one_colour = is_one_colour and bool((pixels == pixels[0, 0]).all())
    return Looks(grey, one_colour, is_dark and not one_colour and bool(pixels.max() < _DARK))


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


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
