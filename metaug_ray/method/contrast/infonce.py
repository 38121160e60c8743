"""InfoNCE and its corrections for false and for easy negatives, within each ordered pair, summed over the pairs.

Logits l are cosines over a temperature, with the cosine 2 d - 1 read back from the similarity d, so that a temperature
means what it means in CMC.
"""

import math

import torch
from torch import Tensor

from metaug_ray.method.contrast.arithmetic import check_at_least, logits, softplus


def info_nce(positives: Tensor, negatives: Tensor, *, temperature: float = 0.07) -> Tensor:
    """InfoNCE (CMC with softmax): -log(e^{l+} / (e^{l+} + sum_k e^{l-_k})) per pair, l = cosine / temperature.

    Args:
        positives: similarities d+, [B, P].
        negatives: similarities d-, [B, P, K] or [B, P * K].
        temperature: t, above 0.

    Returns:
        The mean over anchors, a scalar.

    Raises:
        ValueError: the shapes do not fit, or the temperature is out of range.
    """
    positive, negative = logits(positives, negatives, temperature)
    return softplus(negative.logsumexp(-1) - positive).sum(1).mean()


def debiased_info_nce(
    positives: Tensor, negatives: Tensor, *, temperature: float = 0.07, class_prior: float = 0.1
) -> Tensor:
    """InfoNCE whose negative term is corrected for false negatives (Chuang et al. 2020, with one positive, M = 1).

    Args:
        positives: similarities d+, [B, P].
        negatives: similarities d-, [B, P, K] or [B, P * K].
        temperature: t, above 0.
        class_prior: tau+, the chance that a negative is of the anchor's class, in [0, 1).

    Returns:
        The mean over anchors, a scalar.

    Raises:
        ValueError: the shapes do not fit, or a parameter is out of range.
    """
    positive, negative = logits(positives, negatives, temperature)
    return _corrected(positive, negative.logsumexp(-1), negative.shape[-1], temperature, class_prior)


def hard_info_nce(
    positives: Tensor,
    negatives: Tensor,
    *,
    temperature: float = 0.07,
    class_prior: float = 0.1,
    concentration: float = 1.0,
) -> Tensor:
    """Debiased InfoNCE with hard negatives weighted up by importance sampling (Robinson et al. 2020).

    Args:
        positives: similarities d+, [B, P].
        negatives: similarities d-, [B, P, K] or [B, P * K].
        temperature: t, above 0.
        class_prior: tau+, in [0, 1).
        concentration: their beta, at least 0: a negative weighs as e^{concentration * l-}; 0 is
            :func:`debiased_info_nce`.

    Returns:
        The mean over anchors, a scalar.

    Raises:
        ValueError: the shapes do not fit, or a parameter is out of range.
    """
    check_at_least("concentration", concentration, 0)
    positive, negative = logits(positives, negatives, temperature)
    count = negative.shape[-1]
    reweighted = (
        ((1 + concentration) * negative).logsumexp(-1) - (concentration * negative).logsumexp(-1) + math.log(count)
    )
    return _corrected(positive, reweighted, count, temperature, class_prior)


def _corrected(positive: Tensor, log_negatives: Tensor, count: int, temperature: float, class_prior: float) -> Tensor:
    """-log(e^{l+} / (e^{l+} + G)), G = (e^log_negatives - tau+ K e^{l+}) / (1 - tau+), at least K e^{-1/t}; in the log
    domain."""
    if not 0 <= class_prior < 1:
        raise ValueError(f"class_prior is {class_prior}: it must lie in [0, 1)")
    log_positives = (
        positive + math.log(class_prior * count) if class_prior > 0 else torch.full_like(positive, -math.inf)
    )
    scale = torch.maximum(log_negatives, log_positives).detach()
    difference = (log_negatives - scale).exp() - (log_positives - scale).exp()
    log_corrected = difference.clamp_min(torch.finfo(difference.dtype).tiny).log() + scale - math.log1p(-class_prior)
    log_corrected = log_corrected.clamp_min(math.log(count) - 1 / temperature)
    return softplus(log_corrected - positive).sum(1).mean()
