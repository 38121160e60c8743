"""Representations of labelled images in the file that keeps them, which may be larger than any memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from torch import Tensor

from metaug_ray.evaluation.errors import EvaluationError

COMPLETE: Final = "representations.json"
"""File beside those of representations that are whole; their folder is named by all that they depend on."""
ROWS_AT_A_TIME: Final = 4096
"""Rows that are read, sent and computed with at once."""


@dataclass(frozen=True)
class Labelled:
    """Labelled images, and where their representations lie. Small; the representations are read when asked for.

    A row is an image's representations side by side. Rows are read by `read`, not mapped: a process holds what it
    asked for and nothing else, and the machine's file cache keeps what there is room for.

    Attributes:
        file: float32 [M, E, H] of M images and E encoders, row by row from the byte `offset` on.
        offset: bytes before them.
        shape: M, E and H.
        encoders: which of them.
        images: int64 [N], rising: numbers of the labelled images, in the data set and so in the file.
        labels: int64 [N], from 0 on.
        node: of the Ray cluster, by its id, on which the file lies; where others see it too, they read it themselves.
    """

    file: Path
    offset: int
    shape: tuple[int, int, int]
    encoders: slice
    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    node: str = ""

    @classmethod
    def of(
        cls, stored: "np.memmap[Any, np.dtype[np.float32]]", encoders: slice, labels: NDArray[np.int64], node: str = ""
    ) -> "Labelled":
        """Those images of a mapped file [M, E, H] that have a label: int64 [M], -1 where there is none."""
        images = np.flatnonzero(labels >= 0)
        count, width, size = stored.shape
        return cls(
            Path(str(stored.filename)), stored.offset, (count, width, size), encoders, images, labels[images], node
        )

    @property
    def size(self) -> int:
        """Numbers in a row."""
        return len(range(self.shape[1])[self.encoders]) * self.shape[2]

    def rows_within(self, memory: float) -> int:
        """How many rows fit into so many bytes; at least one."""
        return max(1, int(memory / (4 * self.size)))

    def read(self, parts: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[np.float32]]:
        """Rows by their numbers among the labelled images, float32 [n_i, size], a part at a time.

        Raises:
            EvaluationError: the file was cut off since it was written.
            OSError: it cannot be read.
        """
        if self._is_here():
            yield from _read(self, parts)
            return
        task = ray.remote(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(self.node, soft=False),
            num_returns="streaming",
            # What was read and is not taken yet must not fill the object store.
            _generator_backpressure_num_objects=2,
        )(_read)
        for part in task.remote(self, parts):
            # What lies in the object store cannot be written to, and torch warns of that.
            yield np.array(ray.get(part))

    def blocks(self, rows: NDArray[np.int64], device: torch.device) -> Iterator[Tensor]:
        """Rows by their numbers, in blocks of :data:`ROWS_AT_A_TIME` of which one is in memory."""
        for block in self.read(in_parts(rows)):
            yield torch.from_numpy(block).to(device)

    def load(self, rows: NDArray[np.int64], into: Tensor) -> Tensor:
        """Copy rows to the beginning of a tensor [at least n, size], and return that beginning, [n, size]."""
        start = 0
        for block in self.read(in_parts(rows)):
            into[start : start + len(block)] = torch.from_numpy(block)
            start += len(block)
        return into[:start]

    def _is_here(self) -> bool:
        """Whether this node has the file, by itself or through a file system that it shares."""
        try:
            whole = self.offset + 4 * self.shape[0] * self.shape[1] * self.shape[2] == self.file.stat().st_size
            return whole and self.file.with_name(COMPLETE).exists()
        except OSError:
            return False


def in_parts(rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Row numbers, :data:`ROWS_AT_A_TIME` at a time."""
    return [rows[start : start + ROWS_AT_A_TIME] for start in range(0, len(rows), ROWS_AT_A_TIME)]


def _read(labelled: Labelled, parts: Sequence[NDArray[np.int64]]) -> Iterator[NDArray[np.float32]]:
    row_bytes = 4 * labelled.shape[1] * labelled.shape[2]
    with labelled.file.open("rb", buffering=0) as file:
        for part in parts:
            images = labelled.images[part]
            found = np.empty((len(part), *labelled.shape[1:]), np.float32)
            # Images that follow one another are one request.
            breaks = np.flatnonzero(np.diff(images) != 1) + 1
            for low, high in pairwise([0, *breaks.tolist(), len(part)]):
                file.seek(labelled.offset + int(images[low]) * row_bytes)
                if file.readinto(found[low:high].data) != (high - low) * row_bytes:
                    raise EvaluationError(
                        f"cache: {labelled.file} ends before image {images[high - 1]:,}; remove its folder, and the "
                        "representations are computed anew"
                    )
            yield found[:, labelled.encoders].reshape(len(part), -1)
