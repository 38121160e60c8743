"""What this package uses of FFCV, most of it undocumented: what an upgrade of FFCV may break, all in one place."""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numba.typed
from llvmlite.binding import add_symbol  # type: ignore[import-untyped]
from numba import carray, types  # type: ignore[attr-defined]


@contextmanager
def _plain_dictionary() -> Iterator[None]:
    """For a table of two numbers, which only Python reads, FFCV has numba compile a dictionary at each import: that
    takes every process of a run half of its start."""
    before, numba.typed.Dict = numba.typed.Dict, dict
    try:
        yield
    finally:
        numba.typed.Dict = before


with _plain_dictionary():
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.rgb_image import IMAGE_MODES
    from ffcv.libffcv import imdecode, lib
    from ffcv.types import (
        ALLOC_TABLE_TYPE,
        CURRENT_VERSION,
        TYPE_ID_HANDLER,
        FieldDescType,
        HeaderType,
        get_metadata_type,
    )
    from ffcv.utils import align_to_page, cast_int_to_byte_ptr


_UINT32 = (types.uint32,) * 8


def _external(name: str, result: types.Type, *arguments: types.Type) -> Any:
    """A function of FFCV's library for compiled code, which is kept on disk and finds it by a name: the library lies at
    another address in each process."""
    symbol = f"metaug_ray_ffcv_{name}"
    add_symbol(symbol, ctypes.cast(getattr(lib, name), ctypes.c_void_p).value)
    return types.ExternalFunction(symbol, result(*arguments))


# Pointers are whole numbers here, and truth values are wider than C's, which is how both are handed over.
c_imdecode = _external("imdecode", types.int32, types.uint64, types.uint64, *_UINT32[:2], types.uint64, *_UINT32)
c_resize = _external("resize", types.void, *(types.int64,) * 11)

__all__ = [
    "ALLOC_TABLE_TYPE",
    "CURRENT_VERSION",
    "IMAGE_MODES",
    "TYPE_ID_HANDLER",
    "FieldDescType",
    "HeaderType",
    "IntField",
    "RGBImageField",
    "align_to_page",
    "c_imdecode",
    "c_resize",
    "carray",
    "cast_int_to_byte_ptr",
    "get_metadata_type",
    "imdecode",
]
