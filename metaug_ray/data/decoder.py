"""FFCV's decoding with crops that are given for each image instead of drawn by the thread that decodes it."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numba import prange
from numpy.typing import NDArray

from metaug_ray.data.compiled import compiled
from metaug_ray.data.ffcv_api import (
    IMAGE_MODES,
    AllocationQuery,
    Compiler,
    SimpleRGBImageDecoder,
    State,
    c_imdecode,
    c_resize,
)

_INDEX = 0
_TOP, _LEFT, _HEIGHT, _WIDTH, _FLIP = range(5)
_CROP = 5  # numbers of a crop, which follow the index
_JPEG = IMAGE_MODES["jpg"]


def decoding_rows(
    indices: NDArray[np.int64], crops: Iterable[tuple[NDArray[np.int64], NDArray[np.bool_]]]
) -> NDArray[np.int64]:
    """What `CroppedImageDecoder` takes for each image.

    Args:
        indices: data set indices [N].
        crops: for each crop, boxes (top, left, height, width) [N, 4] in pixels, and whether they are mirrored [N].

    Returns:
        Index, and (top, left, height, width, flip) of each of C crops [N, 1 + 5 C].
    """
    columns = [indices, *(column for crop in crops for column in crop)]
    return np.ascontiguousarray(np.column_stack(columns).astype(np.int64))


class CroppedImageDecoder(SimpleRGBImageDecoder):  # type: ignore[misc]
    """Decodes each image once, and crops, resizes by area averaging and mirrors it as often as its row says.

    FFCV's own random crop draws from a generator of each thread, which neither a seed nor a restart reproduces. FFCV
    hands a decoder the entries of the epoch's order as they are; here they are the rows of `decoding_rows`.

    Args:
        size: side of the crops, in pixels.
        crops: C, of each image.
    """

    def __init__(self, size: int, crops: int) -> None:
        super().__init__()
        self._size, self._crops = size, crops

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        """uint8 [C, size, size, 3] an image."""
        shape = (self._crops, self._size, self._size, 3)
        dtype = np.dtype("<u1")
        return replace(previous_state, jit_mode=False, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable[..., NDArray[np.uint8]]:
        """The function that FFCV calls with a batch of B rows; it gives [C, B, size, size, 3]."""
        size, crops = self._size, self._crops
        decode = _decode_in_parallel if Compiler.num_threads > 1 else _decode_in_order

        def decode_batch(
            rows: NDArray[np.int64], destination: NDArray[np.uint8], metadata: NDArray[np.void], storage: Any
        ) -> NDArray[np.uint8]:
            # Crop by crop, not image by image, so that each crop of the batch is a tensor of its own.
            shown = destination.reshape(crops, len(rows), size, size, 3)
            decode(rows, metadata, *storage, shown)
            return shown

        return decode_batch


@compiled()
def _show(pixels, crop, target):  # type: ignore[no-untyped-def]
    """Crop, resize and mirror an image.

    Args:
        pixels: uint8 [height, width, 3].
        crop: its numbers in `decoding_rows`.
        target: uint8 [size, size, 3], which is filled.
    """
    height, width = pixels.shape[:2]
    top, left = crop[_TOP], crop[_LEFT]
    bottom, right = top + crop[_HEIGHT], left + crop[_WIDTH]
    sides = target.shape[:2]
    c_resize(0, pixels.ctypes.data, height, width, top, bottom, left, right, target.ctypes.data, *sides)
    if crop[_FLIP]:
        side = len(target)
        for y in range(side):
            for x in range(side // 2):
                for channel in range(3):
                    mirrored = side - 1 - x
                    kept = target[y, x, channel]
                    target[y, x, channel] = target[y, mirrored, channel]
                    target[y, mirrored, channel] = kept


@compiled()
def _decode_image(row, slot, field, content, starts, sizes, shown):  # type: ignore[no-untyped-def]
    """Decode the image of one row, and show its crops.

    Args:
        row: of `decoding_rows`.
        slot: of the image in the batch.
        field: mode, height, width and place of the stored image.
        content: bytes of the beton.
        starts, sizes: places and lengths of all images in it, sorted by place.
        shown: uint8 [C, B, size, size, 3], of which this image's part is filled.
    """
    height, width = np.int64(field["height"]), np.int64(field["width"])
    start = field["data_ptr"]
    stored = content[start : start + sizes[np.searchsorted(starts, start)]]
    if field["mode"] == _JPEG:
        pixels = np.empty((height, width, 3), np.uint8)
        size = np.uint32(height), np.uint32(width)
        c_imdecode(stored.ctypes.data, len(stored), *size, pixels.ctypes.data, *size, 0, 0, 1, 1, 0, 0)
    else:
        pixels = stored.reshape(height, width, 3)
    for number in range(len(shown)):
        first = 1 + number * _CROP
        _show(pixels, row[first : first + _CROP], shown[number, slot])


@compiled()
def _decode_in_order(rows, metadata, content, starts, sizes, shown):  # type: ignore[no-untyped-def]
    for slot in range(len(rows)):
        row = rows[slot]
        _decode_image(row, slot, metadata[row[_INDEX]], content, starts, sizes, shown)


@compiled(parallel=True)
def _decode_in_parallel(rows, metadata, content, starts, sizes, shown):  # type: ignore[no-untyped-def]
    for slot in prange(len(rows)):
        row = rows[slot]
        _decode_image(row, slot, metadata[row[_INDEX]], content, starts, sizes, shown)
