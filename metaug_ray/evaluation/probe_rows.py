"""The representations that a linear probe learns from: in memory, or read again for each epoch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaug_ray.evaluation.moments import std_mean
from metaug_ray.evaluation.stored import ROWS_AT_A_TIME, Labelled, in_parts

_BYTES_AT_A_TIME: Final = 1 << 20
"""What is read from one place of a disk: enough that seeking does not count."""

Batch = tuple[Tensor, Tensor]
"""Representations float32 [n, H], and labels int64 [n]."""


class Rows(Protocol):
    """Labelled representations of N images."""

    @property
    def labels(self) -> Tensor:
        """Int64 [N], from 0 on, on the device on which the probe is trained."""

    @property
    def size(self) -> int:
        """H."""

    def std_mean(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Deviation (over n) and mean of some rows, float32 [H]."""

    def each(self, chosen: Tensor) -> Iterator[Batch]:
        """Some rows, each once, in any order."""

    def epoch(self, chosen: Tensor, batch: int, generator: torch.Generator) -> Iterator[Batch]:
        """Some rows in batches by chance, without the remainder."""


@dataclass(frozen=True)
class InMemory:
    """Rows of one tensor.

    Attributes:
        representations: float32 [N, H], on any device.
        labels: int64 [N], there too.
    """

    representations: Tensor
    labels: Tensor

    @property
    def size(self) -> int:
        """H."""
        return self.representations.shape[1]

    def std_mean(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        rows = self.representations
        # Of all rows without a copy of them.
        deviation, mean = torch.std_mean(rows if len(chosen) == len(rows) else rows[chosen], 0, correction=0)
        return deviation, mean

    def each(self, chosen: Tensor) -> Iterator[Batch]:
        for part in chosen.split(ROWS_AT_A_TIME):
            yield self.representations[part], self.labels[part]

    def epoch(self, chosen: Tensor, batch: int, generator: torch.Generator) -> Iterator[Batch]:
        order = chosen[torch.randperm(len(chosen), generator=generator).to(chosen.device)]
        for part in order.split(batch)[: len(order) // batch]:
            yield self.representations[part], self.labels[part]


@dataclass(frozen=True)
class Streamed:
    """Rows that are read from their file in each epoch, as they are more than the memory is to hold.

    Single rows in any order would be a seek of the disk each. So the order is by chance in two steps: the file is cut
    into blocks of about 1 MiB, whose order is by chance; of as many as the memory holds, a window, the rows are mixed
    again.

    Attributes:
        stored: has the rows.
        share: int64 [N], rising: which of its rows these are.
        labels: of these, int64 [N], on the device on which the probe is trained.
        window: rows in memory at a time.
    """

    stored: Labelled
    share: NDArray[np.int64]
    labels: Tensor
    window: int

    @property
    def size(self) -> int:
        """H."""
        return self.stored.size

    def std_mean(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        return std_mean(representations for representations, _ in self.each(chosen))

    def each(self, chosen: Tensor) -> Iterator[Batch]:
        rows = chosen.sort().values.cpu().numpy()
        for part, block in zip(in_parts(rows), self.stored.read(in_parts(self.share[rows])), strict=True):
            yield self._there(torch.from_numpy(block), part)

    def epoch(self, chosen: Tensor, batch: int, generator: torch.Generator) -> Iterator[Batch]:
        blocks = self._blocks(chosen.sort().values.cpu().numpy())
        order = torch.randperm(len(blocks), generator=generator).tolist()
        rows = np.concatenate([blocks[block] for block in order])
        # Whole batches, so that the last window alone has a remainder.
        length = max(1, self.window // batch) * batch
        memory = torch.empty(min(length, len(rows)), self.size)
        for start in range(0, len(rows), length):
            window = rows[start : start + length]
            representations = self.stored.load(self.share[window], memory)
            for part in torch.randperm(len(window), generator=generator).split(batch)[: len(window) // batch]:
                yield self._there(representations[part], window[part.numpy()])

    def _blocks(self, rows: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """Rising rows by the block of the file in which they lie."""
        length = max(1, _BYTES_AT_A_TIME // (4 * self.stored.shape[1] * self.stored.shape[2]))
        block = self.stored.images[self.share[rows]] // length
        return np.split(rows, np.flatnonzero(np.diff(block)) + 1)

    def _there(self, representations: Tensor, rows: NDArray[np.int64]) -> Batch:
        device = self.labels.device
        return representations.to(device), self.labels[torch.from_numpy(rows).to(device)]
