"""An epoch of a beton as FFCV decodes it, batch by batch, on the device."""

from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from queue import Empty

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaug_ray.data.ffcv_api import EpochIterator, Loader


def decoded_batches(loader: Loader, rows: Iterator[NDArray[np.int64]], device: torch.device) -> Generator[Tensor]:
    """What the loader's pipeline makes of the rows of each batch, decoded ahead by a thread, which also asks for rows.

    Closing it ends the thread.

    Args:
        loader: of FFCV, with one pipeline.
        rows: for each batch, what its decoder takes, a row for each image.
        device: where batches go.

    Raises:
        RuntimeError: the decoding failed.
    """
    with closing(_EpochThread(loader, rows, reuse=device.type == "cuda")) as decoded:
        yield from _to_device(decoded, device)


class _NewMemory:
    """Stands where FFCV has a ring buffer, one batch in each slot, and is new memory at every turn."""

    def __init__(self, ring: NDArray[np.uint8]) -> None:
        self._shape = ring.shape[1:]

    def __getitem__(self, slot: int) -> NDArray[np.uint8]:
        return np.empty(self._shape, np.uint8)


class _EpochThread(EpochIterator):  # type: ignore[misc]
    """FFCV's decoding thread, which here hands on its errors and ends when it is closed.

    Args:
        loader: of FFCV.
        rows: of `decoding_rows`, by batch.
        reuse: decode into FFCV's ring of pinned buffers; otherwise each batch is memory of its own, which spares a
        copy.
    """

    failure: BaseException | None = None

    def __init__(self, loader: Loader, rows: Iterator[NDArray[np.int64]], reuse: bool) -> None:
        self._rows, self._reuse = rows, reuse
        super().__init__(loader, ())

    def start(self) -> None:
        self.iter_ixes = self._rows
        if not self._reuse:
            buffers = self.memory_allocations["operation"]
            buffers.update({node: _NewMemory(ring) for node, ring in buffers.items() if ring is not None})
        super().start()

    def run(self) -> None:
        try:
            super().run()
        except BaseException as error:
            self.failure = error
            self.output_queue.put(None)

    def __next__(self) -> Tensor:
        try:
            images: Tensor = super().__next__()[0]
        except StopIteration:
            if self.failure is not None:
                raise RuntimeError(f"decoding {self.loader.fname} failed: {self.failure}") from self.failure
            raise
        return images

    def close(self) -> None:
        """Stops the thread before its next batch, and waits for it."""
        self.iter_ixes = iter(())
        while self.is_alive():
            # It may be waiting to hand over a batch.
            with suppress(Empty):
                self.output_queue.get_nowait()
            self.join(0.002)
        super().close()


def _to_device(decoded: Iterator[Tensor], device: torch.device) -> Iterator[Tensor]:
    """Batches on the device, the next one on its way while one is used.

    On CUDA they come from FFCV's ring of pinned buffers, where a batch is decoded over once the one after it is taken.
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
