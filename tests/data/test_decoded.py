import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from metaug_ray.data.decoded import _DecodingThread, decoded_batches
from metaug_ray.data.decoder import Decoder, decoding_rows
from metaug_ray.data.mapped import open_beton

CPU = torch.device("cpu")


def test_the_ring_of_buffers_holds_what_memory_of_their_own_does(shapes_beton: Path) -> None:
    """The ring is what a GPU is copied from; each batch of it is looked at before the next is taken."""
    beton, indices = open_beton(shapes_beton), np.arange(96)
    boxes = np.column_stack([indices % 5, indices % 7, 10 + indices % 11, 12 + indices % 13])
    rows = decoding_rows(beton.stored(indices), [(boxes, indices % 2 == 0), (boxes[::-1], indices % 3 == 0)])
    batches = rows.reshape(-1, 8, rows.shape[1])
    ring, own = (_DecodingThread(Decoder(16, 1), iter(batches), CPU, pinned=pinned) for pinned in (True, False))
    seen = set()
    for batch, expected in zip(ring, own, strict=True):
        assert batch.shape == (2, 8, 16, 16, 3)
        assert batch.is_contiguous()
        assert torch.equal(batch, expected)
        seen.add(batch.data_ptr())
    assert len(seen) == 5  # three batches ahead, the one that is given and the one that is decoded
    ring.close()
    own.close()


def test_rows_are_asked_for_a_few_batches_ahead(shapes_beton: Path) -> None:
    beton = open_beton(shapes_beton)
    asked: list[int] = []
    whole = (np.array([[0, 0, 8, 8]]), np.array([False]))

    def endless() -> Iterator[NDArray[np.int64]]:
        while True:
            asked.append(len(asked))
            yield decoding_rows(beton.stored(np.array([asked[-1] % 96])), [whole])

    decoded = decoded_batches(Decoder(8, 1), endless(), CPU)
    assert len(list(islice(decoded, 10))) == 10
    assert len(asked) <= 10 + 3 + 2
    decoded.close()
    assert not any(thread.name == "decoding" for thread in threading.enumerate())


def test_what_fails_on_the_way_reaches_the_reader() -> None:
    def broken() -> Iterator[NDArray[np.int64]]:
        raise MemoryError("no room")
        yield

    with pytest.raises(MemoryError, match="no room"):
        list(decoded_batches(Decoder(8, 1), broken(), CPU))
