"""What this package uses of FFCV, most of it undocumented: what an upgrade of FFCV may break, all in one place."""

from collections.abc import Iterator
from contextlib import contextmanager

import numba.typed


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
    from ffcv.fields.decoders import SimpleRGBImageDecoder
    from ffcv.fields.rgb_image import IMAGE_MODES
    from ffcv.libffcv import imdecode, resize_crop
    from ffcv.loader import Loader
    from ffcv.loader.epoch_iterator import EpochIterator
    from ffcv.pipeline.allocation_query import AllocationQuery
    from ffcv.pipeline.compiler import Compiler
    from ffcv.pipeline.state import State
    from ffcv.reader import Reader
    from ffcv.transforms import ToTensor
    from ffcv.types import (
        ALLOC_TABLE_TYPE,
        CURRENT_VERSION,
        TYPE_ID_HANDLER,
        FieldDescType,
        HeaderType,
        get_metadata_type,
    )
    from ffcv.utils import align_to_page

__all__ = [
    "ALLOC_TABLE_TYPE",
    "CURRENT_VERSION",
    "IMAGE_MODES",
    "TYPE_ID_HANDLER",
    "AllocationQuery",
    "Compiler",
    "EpochIterator",
    "FieldDescType",
    "HeaderType",
    "IntField",
    "Loader",
    "RGBImageField",
    "Reader",
    "SimpleRGBImageDecoder",
    "State",
    "ToTensor",
    "align_to_page",
    "get_metadata_type",
    "imdecode",
    "resize_crop",
]
