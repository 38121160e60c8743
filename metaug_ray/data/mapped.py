"""A beton as it lies on disk: its tables and images are mapped into memory, and nothing of an image is read before it
is asked for."""

from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metaug_ray.data.errors import DataError
from metaug_ray.data.ffcv_api import (
    ALLOC_TABLE_TYPE,
    CURRENT_VERSION,
    IMAGE_MODES,
    TYPE_ID_HANDLER,
    FieldDescType,
    HeaderType,
    IntField,
    RGBImageField,
    get_metadata_type,
)

FIELDS: Final[dict[str, RGBImageField | IntField]] = {"image": RGBImageField(), "label": IntField()}
"""Of each image, by the names that FFCV's loaders know them by."""
IMAGE, LABEL = "f0", "f1"  # FFCV's tables address fields by position
METADATA_TYPE: Final[np.dtype[np.void]] = get_metadata_type(list(FIELDS.values()))
TABLES_START: Final[int] = HeaderType.itemsize + len(FIELDS) * FieldDescType.itemsize


class Stored(NamedTuple):
    """Where images lie in memory and what they are; int64 [n] each."""

    addresses: NDArray[np.int64]
    lengths: NDArray[np.int64]
    """in bytes"""
    heights: NDArray[np.int64]
    """in pixels"""
    widths: NDArray[np.int64]
    are_jpeg: NDArray[np.int64]
    """1, or 0 where pixels are stored as they are"""


class MappedBeton:
    """Tables and images of a beton of N images; FFCV's own reader takes hundreds of bytes of memory for each.

    Args:
        path: of the beton.

    Raises:
        ValueError: not a beton of images and labels, or one that is cut short.

    Attributes:
        header: FFCV's.
        metadata, alloc_table: FFCV's tables [N].
        heights, widths: uint16 [N], in pixels.
        labels: int64 [N].
    """

    def __init__(self, path: Path) -> None:
        size = path.stat().st_size
        if size < TABLES_START:
            raise ValueError(f"it has {size} bytes")
        self.path = path
        self._content = np.asarray(np.memmap(path, np.uint8, "r"))
        self.header = self._table(HeaderType, 0, 1)[0]
        if (version := self.header["version"]) != CURRENT_VERSION:
            raise ValueError(f"its format is {version}, expected {CURRENT_VERSION}")
        fields = self._table(FieldDescType, HeaderType.itemsize, len(FIELDS))
        kinds = [TYPE_ID_HANDLER.get(int(kind)) for kind in fields["type_id"]]
        names = [bytes(name).rstrip(b"\0") for name in fields["name"]]
        if self.header["num_fields"] != len(FIELDS) or list(zip(names, kinds, strict=True)) != [
            (name.encode(), type(field)) for name, field in FIELDS.items()
        ]:
            raise ValueError("its fields are no image and label")
        samples, start = int(self.header["num_samples"]), int(self.header["alloc_table_ptr"])
        # The table is what a file that is cut short lacks: it comes last, and FFCV reads it up to the end.
        if not samples or start < TABLES_START or (size - start) // ALLOC_TABLE_TYPE.itemsize != samples:
            raise ValueError("its tables are cut short")
        self.metadata = self._table(METADATA_TYPE, TABLES_START, samples)
        self.alloc_table = self._table(ALLOC_TABLE_TYPE, start, samples)
        image = self.metadata[IMAGE]
        self.heights, self.widths, self.labels = image["height"], image["width"], self.metadata[LABEL]

    def __len__(self) -> int:
        return len(self.metadata)

    def stored(self, samples: NDArray[np.int64]) -> Stored:
        """Where some images lie: in addresses of this process, which are good for as long as this object is.

        Args:
            samples: their numbers [n].

        Raises:
            DataError: the tables say what cannot be, and whoever decodes looks at whatever address it is told.
        """
        image, place = self.metadata[samples][IMAGE], self.alloc_table[samples]
        start, length = place["ptr"], place["size"]
        pixels = 3 * image["height"].astype(np.uint64) * image["width"]
        is_raw, is_jpeg = (image["mode"] == IMAGE_MODES[mode] for mode in ("raw", "jpg"))
        size = np.uint64(len(self._content))
        sound = (
            (start <= size)
            # A sum of the two could be so large that it begins again at 0.
            & (length <= size - start)
            & (image["data_ptr"] == start)
            & (pixels > 0)
            & (is_jpeg | (is_raw & (length == pixels)))
        )
        if not sound.all():
            raise DataError(
                f"{self.path}: its tables are broken at image {samples[np.argmin(sound)]}, which has no pixels or no "
                "place in the file; copy the beton again, or prepare the data again"
            )
        numbers = (self._content.ctypes.data + start, length, image["height"], image["width"], is_jpeg)
        return Stored(*(number.astype(np.int64) for number in numbers))

    def content(self, sample: int) -> NDArray[np.uint8]:
        """The bytes of an image as they are stored."""
        start, size = (int(self.alloc_table[name][sample]) for name in ("ptr", "size"))
        return self._content[start : start + size]

    def _table(self, kind: np.dtype[np.void], start: int, rows: int) -> NDArray[np.void]:
        """Rows of the file, as they are in it."""
        return self._content[start : start + rows * kind.itemsize].view(kind)


def open_beton(path: Path) -> MappedBeton:
    """A beton whose header and whose tables' places are seen to be sound; each row is looked at as it is used.

    Raises:
        DataError: not a beton of this format, or one that is cut short.
    """
    try:
        return MappedBeton(path)
    except ValueError as error:
        raise DataError(f"{path}: is not a beton of images and labels ({error}); prepare the data again") from error
