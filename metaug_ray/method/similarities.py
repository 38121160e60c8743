"""Similarities of features with the memory bank, for all ordered pairs of views."""

from typing import NamedTuple

import torch
from torch import Tensor

from metaug_ray.method.memory_bank import BankSample
from metaug_ray.method.precision import autocast


class Similarities(NamedTuple):
    """d(p, q) = (1 + p.q) / 2 in [0, 1] of B anchors over P = V (V - 1) ordered pairs (u, v), u outer."""

    positives: Tensor
    """d(z_u[i], M_v[n_i]), [B, P]."""
    negatives: Tensor
    """d(z_u[i], M_v[n_k]), [B, P, K]."""


def pair_similarities(features: Tensor, sample: BankSample) -> Similarities:
    """Compare the features of view u with bank rows of every other view v.

    A shared pool is never repeated per anchor: its similarities are one product [B, D] x [D, K] per pair.

    Args:
        features: z_u or a_u(z_u), unit features [V, B, D].
        sample: bank rows of this minibatch.

    Returns:
        float32 (float64 for float64 features) similarities, whatever autocast is on.

    Raises:
        ValueError: the features have another shape than the sample's positives.
    """
    if features.shape != sample.positives.shape:
        raise ValueError(f"features {list(features.shape)} do not fit the sample's {list(sample.positives.shape)}")
    views = len(features)
    pairs = [(u, v) for u in range(views) for v in range(views) if u != v]
    queries, keys = ([pair[side] for pair in pairs] for side in (0, 1))
    dtype = torch.promote_types(features.dtype, torch.float32)
    bank_positives, bank_negatives, substitutes = (
        rows.to(dtype) for rows in (sample.positives, sample.negatives, sample.substitutes)
    )
    # beta = 256 magnifies the 2^-9 that bfloat16 leaves of d to half a unit in the exponent.
    with autocast(features.device, None):
        anchors = _stacked(features.to(dtype), queries)
        positives = _similarity(torch.einsum("pbd,pbd->bp", anchors, _stacked(bank_positives, keys)))
        if sample.negatives.ndim == 4:
            dots = [
                torch.einsum("bd,bkd->bk", anchor, bank_negatives[v]) for anchor, v in zip(anchors, keys, strict=True)
            ]
            return Similarities(positives, _similarity(torch.stack(dots, dim=1)))
        half = anchors.new_full((1, 1, 1), 0.5)
        negatives = torch.baddbmm(half, anchors, _stacked(bank_negatives, keys).transpose(1, 2), alpha=0.5)
        own, places = sample.collisions
        if len(own):
            substitute = _similarity(torch.einsum("pbd,pbd->pb", anchors, _stacked(substitutes, keys)))
            negatives[:, own, places] = substitute[:, own]
        return Similarities(positives, negatives.transpose(0, 1))


def _stacked(rows: Tensor, views: list[int]) -> Tensor:
    """rows[views], without a list of indices that a GPU would have to be sent, and waited for."""
    each = rows.unbind()
    return torch.stack([each[view] for view in views])


def _similarity(dot: Tensor) -> Tensor:
    return (1 + dot) / 2
