"""FFCV's decoding, with crops that are given for each image instead of drawn by the thread that decodes it."""

from collections.abc import Iterable

import numpy as np
from numba import prange, set_num_threads
from numpy.typing import NDArray

from metaug_ray.data.compiled import compiled
from metaug_ray.data.ffcv_api import c_imdecode, c_resize, carray, cast_int_to_byte_ptr
from metaug_ray.data.mapped import Stored

_ADDRESS, _LENGTH, _STORED_HEIGHT, _STORED_WIDTH, _IS_JPEG = range(5)
_STORED = 5  # numbers of a stored image, which crops follow
_TOP, _LEFT, _HEIGHT, _WIDTH, _FLIP = range(5)
_CROP = 5  # numbers of a crop


def decoding_rows(stored: Stored, crops: Iterable[tuple[NDArray[np.int64], NDArray[np.bool_]]]) -> NDArray[np.int64]:
    """What `Decoder` takes for each image.

    Args:
        stored: of N images.
        crops: for each crop, boxes (top, left, height, width) [N, 4] in pixels, and whether they are mirrored [N].

    Returns:
        The numbers of `stored`, and (top, left, height, width, flip) of each of C crops [N, 5 + 5 C].
    """
    columns = [*stored, *(column for crop in crops for column in crop)]
    return np.ascontiguousarray(np.column_stack(columns).astype(np.int64))


class Decoder:
    """Decodes each image once, and crops, resizes by area averaging and mirrors it as often as its row says.

    FFCV's own random crop draws from a generator of each thread, which neither a seed nor a restart reproduces.

    Args:
        size: side S of the crops, in pixels.
        threads: that decode a batch.
    """

    def __init__(self, size: int, threads: int) -> None:
        self._size, self._threads = size, threads

    def use_threads(self) -> None:
        """Let the batches that this thread decodes have no more threads than asked for."""
        set_num_threads(self._threads)

    def shape(self, rows: NDArray[np.int64]) -> tuple[int, ...]:
        """(C, B, S, S, 3): of what is decoded for the rows [B, 5 + 5 C] of a batch."""
        images, columns = rows.shape
        return (columns - _STORED) // _CROP, images, self._size, self._size, 3

    def __call__(self, rows: NDArray[np.int64], shown: NDArray[np.uint8]) -> None:
        """Decode a batch.

        Args:
            rows: of `decoding_rows`, whose addresses are mapped.
            shown: uint8 of `shape`, which is filled: crop by crop, so that each crop of the batch is a tensor of its
                own.
        """
        (_decode_in_parallel if self._threads > 1 else _decode_in_order)(rows, shown)


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
def _decode_image(row, slot, shown):  # type: ignore[no-untyped-def]
    """Decode the image of one row, and show its crops.

    Args:
        row: of `decoding_rows`.
        slot: of the image in the batch.
        shown: uint8 [C, B, size, size, 3], of which this image's part is filled.
    """
    height, width = row[_STORED_HEIGHT], row[_STORED_WIDTH]
    if row[_IS_JPEG]:
        pixels = np.zeros((height, width, 3), np.uint8)
        size = np.uint32(height), np.uint32(width)
        c_imdecode(row[_ADDRESS], row[_LENGTH], *size, pixels.ctypes.data, *size, 0, 0, 1, 1, 0, 0)
    else:
        pixels = carray(cast_int_to_byte_ptr(row[_ADDRESS]), (height, width, 3))
    for number in range(len(shown)):
        first = _STORED + number * _CROP
        _show(pixels, row[first : first + _CROP], shown[number, slot])


@compiled()
def _decode_in_order(rows, shown):  # type: ignore[no-untyped-def]
    for slot in range(len(rows)):
        _decode_image(rows[slot], slot, shown)


@compiled(parallel=True)
def _decode_in_parallel(rows, shown):  # type: ignore[no-untyped-def]
    for slot in prange(len(rows)):
        _decode_image(rows[slot], slot, shown)
