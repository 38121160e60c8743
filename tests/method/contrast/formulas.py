"""Readable versions of the contrasts' formulas, each beside the function that it judges."""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from metaug_ray.method.contrast import (
    Contrast,
    debiased_info_nce,
    hard_info_nce,
    info_nce,
    nce,
    unified_contrast,
    unified_contrast_attenuated,
    unified_contrast_eq8,
)


def double_sum(exponent: Callable[[Tensor, Tensor], Tensor], beta: float) -> Contrast:
    """(1/beta) log(1 + sum over all pairs of a negative and a positive of exp(beta exponent)), anchor by anchor."""

    def contrast(positives: Tensor, negatives: Tensor) -> Tensor:
        losses = []
        for anchor_positives, anchor_negatives in zip(positives, negatives.flatten(1), strict=True):
            total = torch.zeros((), dtype=positives.dtype)
            for positive in anchor_positives:
                for negative in anchor_negatives:
                    total = total + torch.exp(beta * exponent(positive, negative))
            losses.append(torch.log1p(total) / beta)
        return torch.stack(losses).mean()

    return contrast


def eq9_exponent(gamma: float, phi: float) -> Callable[[Tensor, Tensor], Tensor]:
    def exponent(positive: Tensor, negative: Tensor) -> Tensor:
        weight_positive = max(float(1 - positive.detach()) / phi + gamma, 0.0)
        weight_negative = max(float(negative.detach()) / phi + gamma, 0.0)
        return weight_negative * (negative - gamma) - weight_positive * (positive - (1 - gamma))

    return exponent


def centered(formula: Contrast) -> Contrast:
    """The formula of similarities relative to the mean negative of their anchor and pair."""
    return lambda p, n: formula(p - n.mean(2) + 0.5, n - n.mean(2)[:, :, None] + 0.5)


def per_pair(term: Callable[[Tensor, Tensor], Tensor]) -> Contrast:
    """Sum of `term(cosine of the positive, cosines of the negatives [K])` over pairs, mean over anchors."""

    def contrast(positives: Tensor, negatives: Tensor) -> Tensor:
        batch, pairs = positives.shape
        terms = [term(2 * positives[i, p] - 1, 2 * negatives[i, p] - 1) for i in range(batch) for p in range(pairs)]
        return torch.stack(terms).sum() / batch

    return contrast


def cross_entropy(t: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda s, n: F.cross_entropy(torch.cat([s[None], n])[None] / t, torch.tensor([0]))


def cmc_nce(t: float, size: int, z: float) -> Callable[[Tensor, Tensor], Tensor]:
    """NCECriterion of CMC: P = exp(s/t) / Z against noise of density 1/N."""

    def term(s: Tensor, n: Tensor) -> Tensor:
        noise = len(n) / size
        p, q = (s / t).exp() / z, (n / t).exp() / z
        return -(p / (p + noise)).log() - (noise / (q + noise)).log().sum()

    return term


def chuang(t: float, tau: float) -> Callable[[Tensor, Tensor], Tensor]:
    def term(s: Tensor, n: Tensor) -> Tensor:
        positive, negatives = (s / t).exp(), (n / t).exp()
        g = (negatives.mean() - tau * positive) / (1 - tau)
        return -(positive / (positive + len(n) * g.clamp_min(math.exp(-1 / t)))).log()

    return term


def robinson(t: float, tau: float, concentration: float) -> Callable[[Tensor, Tensor], Tensor]:
    def term(s: Tensor, n: Tensor) -> Tensor:
        positive, negatives = (s / t).exp(), (n / t).exp()
        importance = (concentration * n / t).exp()
        g = ((importance * negatives).sum() / importance.sum() - tau * positive) / (1 - tau)
        return -(positive / (positive + len(n) * g.clamp_min(math.exp(-1 / t)))).log()

    return term


LOG_NORMALIZER = torch.tensor([0.3, -0.2], dtype=torch.float64)


def nce_reference(positives: Tensor, negatives: Tensor) -> Tensor:
    size = 50
    pairs = [
        per_pair(cmc_nce(0.5, size, size * math.exp(LOG_NORMALIZER[p])))(
            positives[:, p : p + 1], negatives[:, p : p + 1]
        )
        for p in range(2)
    ]
    return torch.stack(pairs).sum()


CONTRASTS: dict[str, tuple[Contrast, Contrast]] = {
    **{
        f"unified beta {beta:g}": (
            partial(unified_contrast, beta=beta, gamma=0.25),
            double_sum(lambda p, n: (1 - p) ** 2 + n**2 - 2 * 0.25**2, beta),
        )
        for beta in (2.0, 16.0, 256.0)
    },
    "unified, centered": (
        partial(unified_contrast, beta=16.0, gamma=0.25, centered=True),
        centered(double_sum(lambda p, n: (1 - p) ** 2 + n**2 - 2 * 0.25**2, 16.0)),
    ),
    "unified eq 8, centered": (
        partial(unified_contrast_eq8, beta=16.0, margin=0.1, centered=True),
        centered(double_sum(lambda p, n: n - p + 0.1, 16.0)),
    ),
    "unified attenuated, centered": (
        partial(unified_contrast_attenuated, beta=16.0, gamma=0.3, phi=6.0, centered=True),
        centered(double_sum(eq9_exponent(0.3, 6.0), 16.0)),
    ),
    "unified eq 8": (
        partial(unified_contrast_eq8, beta=16.0, margin=0.1),
        double_sum(lambda p, n: n - p + 0.1, 16.0),
    ),
    **{
        f"unified attenuated phi {phi:g}": (
            partial(unified_contrast_attenuated, beta=16.0, gamma=0.3, phi=phi),
            double_sum(eq9_exponent(0.3, phi), 16.0),
        )
        for phi in (1.0, 6.0)
    },
    "info nce": (partial(info_nce, temperature=0.07), per_pair(cross_entropy(0.07))),
    "nce": (partial(nce, temperature=0.5, log_normalizer=LOG_NORMALIZER), nce_reference),
    "debiased": (partial(debiased_info_nce, temperature=0.5, class_prior=0.1), per_pair(chuang(0.5, 0.1))),
    "debiased, at its floor": (
        partial(debiased_info_nce, temperature=0.5, class_prior=0.7),
        per_pair(chuang(0.5, 0.7)),
    ),
    "hard": (
        partial(hard_info_nce, temperature=0.5, class_prior=0.1, concentration=1.5),
        per_pair(robinson(0.5, 0.1, 1.5)),
    ),
}


def similarities(batch: int = 3, pairs: int = 2, count: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    positives = torch.rand(batch, pairs, generator=generator, dtype=torch.float64)
    return positives, torch.rand(batch, pairs, count, generator=generator, dtype=torch.float64)
