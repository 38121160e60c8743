"""Picture files whose pixels are whole though something beside them is broken: the same pixels as sound files."""

import io
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8"
_END_OF_JPEG = b"\xff\xd9"
_SCAN, _RESTARTS = 0xDA, 0xDD
_EXIF = 0xE1
# Applications' parts and comments, without what JFIF and Adobe wrote: that says how colours are meant.
_NOTES = {*range(0xE1, 0xEE), 0xEF, 0xFE}
_NEEDED = 8  # last bytes, without which no JPEG shows its last pixels
# Whatever stands in the place of missing pixels shows; where none is missing, decoders pass over it.
_FILLINGS = (b"", b"\x55" * 4096, b"\xaa\x33" * 2048)


def sound_versions(data: bytes) -> Iterator[bytes]:
    """The same picture without the parts that say nothing of its pixels: first with its EXIF, then without that too.

    A JPEG without its end marker gets one where no pixel is missing. That can be told where all of it lies in one scan
    without restarts; others (progressive ones) are given up.

    Args:
        data: of a file that could not be decoded.
    """
    for kept in (True, False):
        if data.startswith(_PNG):
            yield _plain_png(data, kept)
        elif data.startswith(_JPEG):
            plain = _plain_jpeg(data, kept)
            if plain is not None:
                yield plain


def lacks_its_end(data: bytes) -> bool:
    """Whether a file is a JPEG without an end marker, whatever stands there instead."""
    if not data.startswith(_JPEG) or data.endswith(_END_OF_JPEG):
        return False
    scans = [end for marker, _, end in _segments(data) if marker == _SCAN]
    return bool(scans) and _END_OF_JPEG not in data[scans[0] :]


def _plain_png(data: bytes, with_exif: bool) -> bytes:
    plain = [_PNG]
    position = len(_PNG)
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        # A capital first letter means that the pixels cannot be had without it.
        if kind[:1].isupper() or kind == b"tRNS" or (with_exif and kind == b"eXIf"):
            plain.append(data[position:end])
        position = end
    return b"".join(plain)


def _plain_jpeg(data: bytes, with_exif: bool) -> bytes | None:
    dropped = _NOTES - {_EXIF} if with_exif else _NOTES
    kept = [_JPEG]
    found: dict[int, bytes] = {}
    for marker, start, end in _segments(data):
        found[marker] = data[start:end]
        if marker not in dropped:
            kept.append(data[start:end])
        if marker == _SCAN:
            plain, pixels = b"".join(kept), data[end:]
            if _END_OF_JPEG in pixels:
                return plain + pixels
            # Disks and downloads fill up with zeros; a lone ff is half of the end marker.
            pixels = (pixels.rstrip(b"\0") if pixels.endswith(bytes(16)) else pixels).removesuffix(b"\xff")
            return _ended(plain + pixels) if _is_one_scan(found, pixels) else None
    return None


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of each part of a JPEG, up to the first scan's header."""
    position = len(_JPEG)
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:
            position += 1
            continue
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        yield marker, position, end
        if marker == _SCAN:
            return
        position = end


def _is_one_scan(found: dict[int, bytes], pixels: bytes) -> bool:
    """Whether the first scan of a JPEG, with these parts before it, holds all its colours and is its last."""
    frame = found.get(0xC0) or found.get(0xC1) or b""
    is_whole = frame[9:10] == found[_SCAN][4:5] != b""
    return is_whole and _RESTARTS not in found and bytes((0xFF, _SCAN)) not in pixels


def _ended(data: bytes) -> bytes | None:
    """The JPEG with an end marker, unless pixels are missing before it, or bytes of something else stand there."""
    is_whole = _shows_no_filling(data) and not _shows_no_filling(data[:-_NEEDED])
    return data + _END_OF_JPEG if is_whole else None


def _shows_no_filling(data: bytes) -> bool:
    first, *others = (_decoded(data + filling + _END_OF_JPEG) for filling in _FILLINGS)
    return first is not None and all(other is not None and np.array_equal(other, first) for other in others)


def _decoded(data: bytes) -> NDArray[np.uint8] | None:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            return np.array(image)
    # Decoders raise nearly everything on broken files.
    except Exception:
        return None
