"""Similarities of anchors with what they are compared with, for all ordered pairs of views."""

from typing import NamedTuple

import torch
from torch import Tensor


class Similarities(NamedTuple):
    """d(p, q) = (1 + p.q) / 2 in [0, 1] of B anchors over P = V (V - 1) ordered pairs (u, v), u outer."""

    positives: Tensor
    """Of each anchor with its own image, [B, P]."""
    negatives: Tensor
    """And with K other images, [B, P, K]."""


def similarity(dot: Tensor) -> Tensor:
    """D from a scalar product of unit vectors."""
    return (1 + dot) / 2


def ordered_pairs(views: int) -> list[tuple[int, int]]:
    """(u, v) for V views, u outer."""
    return [(u, v) for u in range(views) for v in range(views) if u != v]


def stacked(rows: Tensor, places: list[int]) -> Tensor:
    """rows[places], without a list of indices that a GPU would have to be sent, and waited for."""
    each = rows.unbind()
    return torch.stack([each[place] for place in places])
