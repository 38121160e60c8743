"""FFCV's decoding with a crop that is given for each image instead of drawn by the thread that decodes it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metaug_ray.data.ffcv_api import (
    IMAGE_MODES,
    AllocationQuery,
    Compiler,
    SimpleRGBImageDecoder,
    State,
    imdecode,
    resize_crop,
)

_INDEX, _TOP, _LEFT, _HEIGHT, _WIDTH, _FLIP = range(6)


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
        return replace(previous_state, jit_mode=True, shape=shape, dtype=dtype), AllocationQuery(shape, dtype)

    def generate_code(self) -> Callable[..., Any]:
        """The function that FFCV compiles and calls with a batch of rows."""
        read = self.memory_read
        decode_jpeg = Compiler.compile(imdecode)
        resize = Compiler.compile(resize_crop)
        images_of_batch = Compiler.get_iterator()
        jpeg = IMAGE_MODES["jpg"]
        size = self._size

        def decode(rows, destination, metadata, storage_state):  # type: ignore[no-untyped-def]
            for slot in images_of_batch(len(rows)):
                row = rows[slot]
                field = metadata[row[_INDEX]]
                height, width = np.int64(field["height"]), np.int64(field["width"])
                stored = read(field["data_ptr"], storage_state)
                if field["mode"] == jpeg:
                    pixels = np.empty((height, width, 3), np.uint8)
                    decode_jpeg(stored, pixels, height, width, height, width, 0, 0, 1, 1, False, False)
                else:
                    pixels = stored.reshape(height, width, 3)
                top, left = row[_TOP], row[_LEFT]
                target = destination[slot]
                resize(pixels, top, top + row[_HEIGHT], left, left + row[_WIDTH], target)
                if row[_FLIP]:
                    for y in range(size):
                        for x in range(size // 2):
                            for channel in range(3):
                                mirrored = size - 1 - x
                                kept = target[y, x, channel]
                                target[y, x, channel] = target[y, mirrored, channel]
                                target[y, mirrored, channel] = kept
            return destination[: len(rows)]

        decode.is_parallel = True  # type: ignore[attr-defined]
        return decode
