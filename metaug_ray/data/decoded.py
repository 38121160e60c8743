"""Batches as they are decoded, one after the other, on the device."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from itertools import cycle
from queue import Empty, Queue
from threading import Thread
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaug_ray.data.decoder import Decoder

_BATCHES_AHEAD: Final = 3


def decoded_batches(decoder: Decoder, batches: Iterator[NDArray[np.int64]], device: torch.device) -> Generator[Tensor]:
    """What is decoded of the rows of each batch, ahead of the one that is asked for, by a thread that also asks for
    rows.

    Closing it ends the thread.

    Args:
        decoder: which may be in use elsewhere at the same time.
        batches: rows of `decoding_rows` for each batch.
        device: where batches go.

    Yields:
        uint8 [C, B, S, S, 3], of C crops.

    Raises:
        Exception: what the decoding or the rows raised.
    """
    with closing(_DecodingThread(decoder, batches, device)) as decoded:
        yield from _to_device(decoded, device)


class _DecodingThread(Thread):
    """Decodes until it is closed.

    Args:
        decoder, batches, device: as for `decoded_batches`.
        pinned: decode into a ring of buffers in pinned memory, and not into memory of their own.
    """

    def __init__(
        self, decoder: Decoder, batches: Iterator[NDArray[np.int64]], device: torch.device, pinned: bool | None = None
    ) -> None:
        super().__init__(daemon=True, name="decoding")
        self._decoder, self._batches, self._device = decoder, batches, device
        self._pinned = device.type == "cuda" if pinned is None else pinned
        self._ready: Queue[Tensor | Exception | None] = Queue(_BATCHES_AHEAD)
        self._closed = False
        self.start()

    def run(self) -> None:
        try:
            # Else what this thread does for the GPU of another worker would open the first one's.
            if self._device.type == "cuda":
                torch.cuda.set_device(self._device)
            self._decoder.use_threads()
            ring: Iterator[Tensor] | None = None
            for rows in self._batches:
                if self._closed:
                    return
                if not self._pinned:
                    buffer = torch.empty(self._decoder.shape(rows), dtype=torch.uint8)
                else:
                    ring = ring or self._ring(rows)
                    buffer = next(ring)
                self._decoder(rows, buffer.numpy())
                self._ready.put(buffer)
            self._ready.put(None)
        except Exception as error:
            self._ready.put(error)

    def __iter__(self) -> Iterator[Tensor]:
        while (batch := self._ready.get()) is not None:
            if isinstance(batch, Exception):
                raise batch
            yield batch

    def close(self) -> None:
        """Stop the thread before its next batch, and wait for it."""
        self._closed = True
        while self.is_alive():
            # It may be waiting to hand over a batch.
            with suppress(Empty):
                self._ready.get_nowait()
            self.join(0.002)

    def _ring(self, rows: NDArray[np.int64]) -> Iterator[Tensor]:
        """Buffers in turn: those that wait, the one that is given and the one that is decoded."""
        pin = torch.cuda.is_available()
        shape = self._decoder.shape(rows)
        return cycle([torch.empty(shape, dtype=torch.uint8, pin_memory=pin) for _ in range(_BATCHES_AHEAD + 2)])


def _to_device(decoded: Iterable[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Batches on the device, the next one on its way while one is used.

    On CUDA they come from a ring of pinned buffers, where a batch is decoded over once the one after it is taken.
    """
    if device.type != "cuda":
        yield from decoded
        return
    copying = torch.cuda.Stream(device)
    ahead: Tensor | None = None
    for images in decoded:
        with torch.cuda.stream(copying):
            copy = images.to(device, non_blocking=True)
        copied = copying.record_event()
        if ahead is not None:
            yield ahead
        # Waits for the copy alone, not for the training that runs beside it.
        copied.synchronize()
        copy.record_stream(torch.cuda.current_stream(device))
        ahead = copy
    if ahead is not None:
        yield ahead
