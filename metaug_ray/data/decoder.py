"""FFCV's decoding with a crop that is given for each image instead of drawn by the thread that decodes it."""

from collections.abc import Callable
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

_INDEX, _TOP, _LEFT, _HEIGHT, _WIDTH, _FLIP = range(6)
_JPEG = IMAGE_MODES["jpg"]


def decoding_rows(indices: NDArray[np.int64], boxes: NDArray[np.int64], flips: NDArray[np.bool_]) -> NDArray[np.int64]:
    """What `CroppedImageDecoder` takes for each image: (index, top, left, height, width, flip) [N, 6]."""
    return np.ascontiguousarray(np.column_stack([indices, boxes, flips]).astype(np.int64))


class CroppedImageDecoder(SimpleRGBImageDecoder):  # type: ignore[misc]
    """Decodes, crops, resizes by area averaging and mirrors images as their rows say.

    FFCV's own random crop draws from a generator of each thread, which neither a seed nor a restart reproduces. FFCV
    hands a decoder the entries of the epoch's order as they are; here they are the rows of `decoding_rows`.

    Args:
        size: side of the decoded images, in pixels.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self._size = size

    def declare_state_and_memory(self, previous_state: State) -> tuple[State, AllocationQuery]:
        """uint8 [size, size, 3] an image."""
        shape = (self._size, self._size, 3)
        dtype = np.dtype("<u1")
        return replace(previous_state, jit_mode=False, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable[..., NDArray[np.uint8]]:
        """The function that FFCV calls with a batch of rows."""
        decode = _decode_in_parallel if Compiler.num_threads > 1 else _decode_in_order

        def decode_batch(
            rows: NDArray[np.int64], destination: NDArray[np.uint8], metadata: NDArray[np.void], storage: Any
        ) -> NDArray[np.uint8]:
            decode(rows, metadata, *storage, destination)
            return destination[: len(rows)]

        return decode_batch


@compiled()
def _decode_image(row, field, content, starts, sizes, target):  # type: ignore[no-untyped-def]
    """Decode the image of one row.

    Args:
        row: of `decoding_rows`.
        field: mode, height, width and place of the stored image.
        content: bytes of the beton.
        starts, sizes: places and lengths of all images in it, sorted by place.
        target: uint8 [size, size, 3], which is filled.
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
    top, left = row[_TOP], row[_LEFT]
    bottom, right = top + row[_HEIGHT], left + row[_WIDTH]
    sides = target.shape[:2]
    c_resize(0, pixels.ctypes.data, height, width, top, bottom, left, right, target.ctypes.data, *sides)
    if row[_FLIP]:
        side = len(target)
        for y in range(side):
            for x in range(side // 2):
                for channel in range(3):
                    mirrored = side - 1 - x
                    kept = target[y, x, channel]
                    target[y, x, channel] = target[y, mirrored, channel]
                    target[y, mirrored, channel] = kept


@compiled()
def _decode_in_order(rows, metadata, content, starts, sizes, destination):  # type: ignore[no-untyped-def]
    for slot in range(len(rows)):
        row = rows[slot]
        _decode_image(row, metadata[row[_INDEX]], content, starts, sizes, destination[slot])


@compiled(parallel=True)
def _decode_in_parallel(rows, metadata, content, starts, sizes, destination):  # type: ignore[no-untyped-def]
    for slot in prange(len(rows)):
        row = rows[slot]
        _decode_image(row, metadata[row[_INDEX]], content, starts, sizes, destination[slot])
