"""Comparing anchors with features of the whole global batch."""

from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

from metaug_ray.method import distributed
from metaug_ray.method.similarities import similarity


class Places:
    """Where the anchors of this rank stand in the global batch, rank by rank.

    Args:
        batch: B, anchors of this rank, as many as of every other.
        device: of the features.
        group: ranks that share a minibatch.

    Raises:
        ValueError: the global batch has one image, and so no negatives.
    """

    def __init__(self, batch: int, device: torch.device, group: dist.ProcessGroup | None) -> None:
        ranks = distributed.world_size(group)
        if ranks * batch < 2:
            raise ValueError("a global batch of 1 image has no negatives: it needs at least 2")
        own = distributed.rank(group) * batch + torch.arange(batch, device=device)
        others = torch.arange(ranks * batch - 1, device=device)
        self._own = own.unsqueeze(1)
        self._others = others + (others >= self._own)

    def split(self, dots: Tensor) -> tuple[Tensor, Tensor]:
        """Similarities of the anchors with their own image, [B], and with the others in their order, [B, W B - 1].

        Args:
            dots: scalar products of unit vectors, [B, W B].
        """
        return similarity(dots.gather(1, self._own)).squeeze(1), similarity(dots.gather(1, self._others))


class WholeBatchKeys:
    """Base of the keys that each anchor of a minibatch has in common.

    Args:
        group: ranks that share a minibatch.
    """

    divisible = False
    rows: Tensor | None = None

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self._group = group

    def keys(self, projections: Tensor) -> Self:
        """Itself: what is compared with stays what it was at theta."""
        return self

    def part(self, number: int, count: int) -> Self:
        """All of them: each anchor is compared with the whole batch."""
        if count != 1:
            raise ValueError(f"targets of the whole batch do not divide into {count} parts")
        return self
