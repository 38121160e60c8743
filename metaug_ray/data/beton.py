"""The beton file itself: FFCV's format, written page by page from encoded images and read back to verify it."""

import logging
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
from numpy.typing import NDArray

from metaug_ray.data.checksum import sha256_of_stream
from metaug_ray.data.encoding import EncodedImage
from metaug_ray.data.errors import DataError
from metaug_ray.data.ffcv_api import (
    ALLOC_TABLE_TYPE,
    CURRENT_VERSION,
    IMAGE_MODES,
    TYPE_ID_HANDLER,
    FieldDescType,
    HeaderType,
    align_to_page,
    imdecode,
)
from metaug_ray.data.mapped import FIELDS, IMAGE, LABEL, METADATA_TYPE, TABLES_START, open_beton

_ROW = np.dtype([("metadata", METADATA_TYPE), ("place", ALLOC_TABLE_TYPE)])
_ROWS_AT_ONCE = 1 << 13
_MIN_PAGE = 2 << 20  # FFCV's least
_MOST_LEVELS_OFF = 2
_log = logging.getLogger(__name__)


class BetonWriter(AbstractContextManager["BetonWriter"]):
    """Writes a beton in one process, in the order of `append`, so that the same images give the same bytes.

    FFCV's own parallel writer leaves the order of the pages to chance, waits forever for a worker that died, and keeps
    its tables in /dev/shm; here the costly part, decoding and encoding, is done elsewhere and only bytes arrive.
    Leaving the context finishes the file, unless an exception leaves it.

    Pages grow with the images: the greatest image so far fits eight times, so that little is left empty at their ends.

    Args:
        path: file to write; an existing one is replaced.
        capacity: number of images at most.
    """

    def __init__(self, path: Path, capacity: int) -> None:
        self._page = _MIN_PAGE
        self._end = align_to_page(TABLES_START + capacity * METADATA_TYPE.itemsize, self._page)
        self._file = path.open("wb")
        # The tables of very many images are more than memory should hold; where they go is known at the end.
        self._rows = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115
        self._row = np.zeros(1, _ROW)
        self.samples = 0

    def append(self, image: EncodedImage) -> None:
        """Adds one image as sample number `samples`."""
        size = len(image.data)
        # Twice as large, a page ends where some page ended before: what is written already lies in one page still.
        while self._page < 8 * size:
            self._page *= 2
        # FFCV reads by pages, so no image may lie across two.
        if self._end % self._page + size > self._page:
            self._end = align_to_page(self._end, self._page)
        self._file.seek(self._end)
        self._file.write(image.data)
        self._row["place"] = (self.samples, self._end, size)
        fields = self._row["metadata"][0]
        fields[IMAGE]["mode"] = IMAGE_MODES["jpg" if image.is_jpeg else "raw"]
        fields[IMAGE]["height"], fields[IMAGE]["width"] = image.height, image.width
        fields[IMAGE]["data_ptr"] = self._end
        fields[LABEL] = image.label
        self._rows.write(self._row.tobytes())
        self._end += size
        self.samples += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._file, self._rows:
            if error is None:
                self._finish()

    def _finish(self) -> None:
        table_start = align_to_page(self._end, self._page)
        header = np.zeros(1, HeaderType)[0]
        header["version"] = CURRENT_VERSION
        header["num_fields"] = len(FIELDS)
        header["page_size"] = self._page
        header["num_samples"] = self.samples
        header["alloc_table_ptr"] = table_start
        descriptors = np.zeros(len(FIELDS), FieldDescType)
        type_ids = {handler: type_id for type_id, handler in TYPE_ID_HANDLER.items()}
        for descriptor, (name, field) in zip(descriptors, FIELDS.items(), strict=True):
            descriptor["type_id"] = type_ids[type(field)]
            descriptor["name"][: len(name)] = np.frombuffer(name.encode("ascii"), np.uint8)
            descriptor["arguments"][:] = field.to_binary()[0]
        self._file.seek(0)
        self._file.write(header.tobytes() + descriptors.tobytes())
        middle = METADATA_TYPE.itemsize
        self._write_columns(slice(middle), TABLES_START)
        self._write_columns(slice(middle, None), table_start)
        self._file.flush()
        os.fsync(self._file.fileno())

    def _write_columns(self, chosen: slice, start: int) -> None:
        self._rows.seek(0)
        self._file.seek(start)
        while block := self._rows.read(_ROWS_AT_ONCE * _ROW.itemsize):
            # Bytes: NumPy copies fields without what lies between them, and leaves there what it finds.
            self._file.write(np.frombuffer(block, np.uint8).reshape(-1, _ROW.itemsize)[:, chosen].tobytes())


def sha256_of(path: Path, progress: Callable[[int], object] = lambda _: None) -> str:
    """SHA-256 of a file; `progress` is told of the bytes as they are read."""
    with path.open("rb") as file:
        return sha256_of_stream(file, progress)


def verify_beton(
    path: Path,
    labels: NDArray[np.integer],
    crcs: Sequence[int],
    progress: Callable[[int], object] = lambda _: None,
    decoded: int = 64,
) -> str:
    """Reads a beton back and compares it with what was handed to its writer.

    Every image's bytes are compared by CRC-32 and every label by value, in order; `decoded` images, spread evenly, are
    decoded by FFCV and compared with OpenCV's decoding.

    Args:
        path: the beton.
        labels: [N], what was appended; integers of any size.
        crcs: N, of the bytes appended.
        progress: is told of the bytes as they are read.
        decoded: number of images to decode.

    Returns:
        The SHA-256 of the file.

    Raises:
        DataError: the file is not what was written.
    """
    beton = open_beton(path)
    if len(beton) != len(labels):
        raise DataError(f"{path}: holds {len(beton):,} images where {len(labels):,} were written; prepare it again")
    for first in range(0, len(labels), _ROWS_AT_ONCE):
        samples = np.arange(first, min(first + _ROWS_AT_ONCE, len(labels)))
        beton.stored(samples)
        if not np.array_equal(beton.labels[samples], labels[samples]):
            raise DataError(
                f"{path}: the labels read back differ from those written; the disk or its memory may be faulty"
            )
        if not np.array_equal(beton.alloc_table["sample_id"][samples], samples):
            raise DataError(f"{path}: the images read back are out of order; prepare the data again")
    sha256 = sha256_of(path, progress)
    for sample, crc in enumerate(crcs):
        if zlib.crc32(beton.content(sample).data) != crc:
            raise DataError(
                f"{path}: image {sample} read back differs from the one written; the disk may be full or faulty"
            )
    errors = []
    chosen = np.linspace(0, len(labels) - 1, min(decoded, len(labels))).astype(np.int64)
    stored = beton.stored(chosen)
    for sample, is_jpeg, height, width in zip(chosen, stored.are_jpeg, stored.heights, stored.widths, strict=True):
        if is_jpeg:
            data = np.array(beton.content(sample))
            errors.append(decoding_error(data, int(height), int(width), f"{path}: image {sample}"))
    check_decoding(errors)
    return sha256


def decoding_error(data: NDArray[np.uint8], height: int, width: int, name: str) -> float:
    """How far FFCV's decoding of a JPEG is from OpenCV's exact one: the mean over all pixels, in levels of 255.

    Raises:
        DataError: one of the two does not decode it to this size.
    """
    pixels = np.empty((height, width, 3), np.uint8)
    failed = imdecode(data, pixels, height, width, height, width, 0, 0, 1, 1, False, False)
    expected = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    if failed or expected is None or expected.shape != pixels.shape:
        raise DataError(f"{name} does not decode to what was written; check the libjpeg-turbo that FFCV uses")
    return float(np.abs(pixels.astype(int) - expected).mean())


def check_decoding(errors: Sequence[float]) -> None:
    """Raises `DataError` where JPEGs do not survive FFCV's decoding; single ones are told of in the log.

    FFCV asks libjpeg-turbo for its fast transform, which is a level or two off for photographs, and more for drawings
    of black and white.
    """
    off = [error for error in errors if error > _MOST_LEVELS_OFF]
    if 2 * len(off) > len(errors):
        raise DataError(
            f"FFCV decodes {len(off)} of {len(errors)} JPEGs, stored as asked, more than {_MOST_LEVELS_OFF} levels off "
            f"(at most {max(off):.1f}); store raw pixels (--encoding.kind raw), or give a lower --encoding.jpeg-quality"
        )
    if off:
        _log.warning(
            "%d of %d JPEGs are more than %d levels off as FFCV decodes them (at most %.1f), as drawings may be; raw "
            "pixels (--encoding.kind raw) are exact",
            len(off),
            len(errors),
            _MOST_LEVELS_OFF,
            max(off),
        )
