"""Contrasts: pure functions from similarities to a scalar loss, the mean over anchors.

All take the same two arguments, for B anchors, P ordered pairs of views and K negatives per pair:

    positives  d+ in [0, 1], [B, P]
    negatives  d- in [0, 1], [B, P, K] or, pairs outer, [B, P * K]

and reduce in float32 at least. Shapes that do not fit and settings out of their range raise a ValueError. The
optimization-driven unified contrast (OUCL) compares every positive of an anchor with every negative of it; its double
sum over pairs factorises into two log-sum-exps, so it costs O(P + P K). The InfoNCE family and NCE compare within each
ordered pair and sum over the pairs; their logits are cosines over a temperature, with the cosine 2 d - 1 read back from
d, so that a temperature means what it means in CMC.
"""

import math
from collections.abc import Callable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from metaug_ray.method import distributed


def unified_contrast(positives: Tensor, negatives: Tensor, *, beta: float, gamma: float) -> Tensor:
    """OUCL, Eq. 10: (1/beta) log(1 + sum_{k-} sum_{k+} exp(beta((1 - d+)^2 + (d-)^2 - 2 gamma^2))).

    Args:
        positives, negatives: see the module.
        beta: inverse temperature, > 0; the paper searches 2 to 256.
        gamma: relaxation factor; the paper searches 0.15 to 0.50.
    """
    _at_least("beta", beta, 0, open_end=True)
    positives, negatives = _wide(positives, negatives)
    return _unified(
        beta * ((1 - positives).square() - gamma**2),
        beta * (negatives.square() - gamma**2),
        beta,
    )


def unified_contrast_eq8(positives: Tensor, negatives: Tensor, *, beta: float, margin: float) -> Tensor:
    """OUCL without weighting, Eq. 8: (1/beta) log(1 + sum_{k-} sum_{k+} exp(beta(d- - d+ + lambda))).

    Args:
        positives, negatives: see the module.
        beta: inverse temperature, > 0.
        margin: lambda.
    """
    _at_least("beta", beta, 0, open_end=True)
    positives, negatives = _wide(positives, negatives)
    return _unified(beta * (margin - positives), beta * negatives, beta)


def unified_contrast_attenuated(
    positives: Tensor, negatives: Tensor, *, beta: float, gamma: float, phi: float
) -> Tensor:
    """OUCL with attenuated weights, Eq. 9 and section 4.4.

    The weights [(1 - d+)/phi + gamma]_+ and [d-/phi + gamma]_+ are constants of the gradient, as in Circle loss. At phi
    = 1 the value, not the gradient, is Eq. 10's.

    Args:
        positives, negatives: see the module.
        beta: inverse temperature, > 0.
        gamma: relaxation factor.
        phi: phi_dec >= 1, attenuation; best at 6 in the paper's figure 3.
    """
    _at_least("beta", beta, 0, open_end=True)
    _at_least("phi", phi, 1)
    positives, negatives = _wide(positives, negatives)
    weight_positive = torch.relu((1 - positives) / phi + gamma).detach()
    weight_negative = torch.relu(negatives / phi + gamma).detach()
    return _unified(
        -beta * weight_positive * (positives - (1 - gamma)),
        beta * weight_negative * (negatives - gamma),
        beta,
    )


def centered(contrast: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """A contrast of similarities relative to the mean negative of their anchor and pair: d - mean_k d-_k + 1/2.

    Not in the paper. InfoNCE does not change when all similarities of an anchor rise or fall alike. OUCL does: it falls
    when two views turn away from one another as a whole, whatever that does to positives, so that features are spent on
    a mean that tells no image from another. Centered, that gains nothing.

    Args:
        contrast: one of the unified ones, its settings bound.
    """

    def relative(positives: Tensor, negatives: Tensor) -> Tensor:
        positives, negatives = _wide(positives, negatives)
        mean = negatives.mean(2) - 0.5
        return contrast(positives - mean, negatives - mean.unsqueeze(2))

    return relative


def info_nce(positives: Tensor, negatives: Tensor, *, temperature: float = 0.07) -> Tensor:
    """InfoNCE (CMC with softmax): -log(e^{l+} / (e^{l+} + sum_k e^{l-_k})) per pair, l = cosine / temperature."""
    positive, negative = _logits(positives, negatives, temperature)
    return _softplus(negative.logsumexp(-1) - positive).sum(1).mean()


def debiased_info_nce(
    positives: Tensor, negatives: Tensor, *, temperature: float = 0.07, class_prior: float = 0.1
) -> Tensor:
    """InfoNCE whose negative term is corrected for false negatives (Chuang et al. 2020, with one positive, M = 1).

    Args:
        positives, negatives: see the module.
        temperature: t.
        class_prior: tau+, the chance that a negative is of the anchor's class, in [0, 1).
    """
    positive, negative = _logits(positives, negatives, temperature)
    return _corrected_info_nce(positive, negative.logsumexp(-1), negative.shape[-1], temperature, class_prior)


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
        positives, negatives: see the module.
        temperature: t.
        class_prior: tau+, in [0, 1).
        concentration: their beta >= 0: a negative weighs as e^{concentration * l-}; 0 is :func:`debiased_info_nce`.
    """
    _at_least("concentration", concentration, 0)
    positive, negative = _logits(positives, negatives, temperature)
    count = negative.shape[-1]
    reweighted = (
        ((1 + concentration) * negative).logsumexp(-1) - (concentration * negative).logsumexp(-1) + math.log(count)
    )
    return _corrected_info_nce(positive, reweighted, count, temperature, class_prior)


def nce(positives: Tensor, negatives: Tensor, *, temperature: float = 0.07, log_normalizer: Tensor) -> Tensor:
    """Noise-contrastive estimation as CMC uses it (Wu et al. 2018): telling the positive from K uniform noise draws.

    With Z = N e^{log_normalizer}, h = (e^l / Z) / (e^l / Z + K / N); the data set's size N cancels:
    -log h(l+) - sum_k log(1 - h(l-_k)), per pair.

    Args:
        positives, negatives: see the module.
        temperature: t.
        log_normalizer: log of the mean of e^l over the data set for each pair, [P], from :func:`nce_log_normalizer`.
    """
    positive, negative = _logits(positives, negatives, temperature)
    log_odds = log_normalizer.to(positive.dtype) + math.log(negative.shape[-1])
    per_pair = _softplus(log_odds - positive) + _softplus(negative - log_odds.unsqueeze(-1)).sum(-1)
    return per_pair.sum(1).mean()


def nce_log_normalizer(
    positives: Tensor,
    negatives: Tensor,
    *,
    temperature: float = 0.07,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Estimate :func:`nce`'s normaliser from a minibatch, over all ranks of `group`: log mean e^l per pair, float64
    [P]."""
    positive, negative = _logits(positives.detach().double(), negatives.detach().double(), temperature)
    mean = torch.cat([positive.unsqueeze(-1), negative], -1).exp().mean((0, 2))
    distributed.average([mean], group)
    return mean.log()


class NoiseContrastiveEstimation(nn.Module):
    """:func:`nce` with the normaliser that CMC uses: estimated on the first minibatch, constant from then on.

    The normaliser is a buffer, so a checkpoint carries it.

    Args:
        pairs: P, ordered pairs of views.
        temperature: t.
        group: ranks that share the minibatch; the first call is a collective one.

    Shape: positives [B, n P] and negatives [B, n P, K] to a scalar; n = 2 for original and augmented pairs together,
    which share their pair's normaliser. The first call must be on original pairs alone.
    """

    log_normalizer: Tensor

    def __init__(self, pairs: int, *, temperature: float = 0.07, group: dist.ProcessGroup | None = None) -> None:
        super().__init__()
        self.temperature = temperature
        self._group = group
        self._estimated = False  # spares looking at the buffer, and so a synchronisation, in every later step
        nn.Module.register_load_state_dict_post_hook(self, _look_again)
        self.register_buffer("log_normalizer", torch.full((pairs,), math.nan, dtype=torch.float64))

    def forward(self, positives: Tensor, negatives: Tensor) -> Tensor:
        repeats, rest = divmod(positives.shape[1], len(self.log_normalizer))
        if rest:
            raise ValueError(
                f"{positives.shape[1]} pairs are no multiple of the {len(self.log_normalizer)} that NCE was built for: "
                "V views have V (V - 1) ordered pairs"
            )
        if not self._estimated:
            if self.log_normalizer.isnan().any():
                estimate = nce_log_normalizer(positives, negatives, temperature=self.temperature, group=self._group)
                self.log_normalizer.copy_(estimate)
            self._estimated = True
        return nce(
            positives, negatives, temperature=self.temperature, log_normalizer=self.log_normalizer.repeat(repeats)
        )


def _look_again(module: NoiseContrastiveEstimation, _: object) -> None:
    module._estimated = False


def _wide(positives: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float32 at least, negatives [B, P, K]."""
    batch, pairs = positives.shape
    if negatives.ndim == 2 and pairs and negatives.shape[1] % pairs == 0:
        negatives = negatives.unflatten(1, (pairs, -1))
    if negatives.ndim != 3 or negatives.shape[:2] != (batch, pairs) or not negatives.shape[2]:
        raise ValueError(
            f"negatives {list(negatives.shape)} do not fit positives {list(positives.shape)}: "
            f"expected [{batch}, {pairs}, K] or [{batch}, {pairs} * K]"
        )
    dtype = torch.promote_types(torch.promote_types(positives.dtype, negatives.dtype), torch.float32)
    return positives.to(dtype), negatives.to(dtype)


def _at_least(name: str, value: float, least: float, *, open_end: bool = False) -> None:
    if not least <= value < math.inf or (open_end and value == least):
        raise ValueError(f"{name} is {value}: it must be {'above' if open_end else 'at least'} {least}")


def _unified(positive_exponents: Tensor, negative_exponents: Tensor, beta: float) -> Tensor:
    """(1/beta) log(1 + sum_{k-} sum_{k+} e^{p + n}), mean over anchors."""
    return _softplus(negative_exponents.logsumexp((1, 2)) + positive_exponents.logsumexp(1)).mean() / beta


def _softplus(x: Tensor) -> Tensor:
    # Above its threshold torch returns x itself: at the default of 20 that is an error of 2e-9, at 40 one of 4e-18.
    return F.softplus(x, threshold=40)


def _logits(positives: Tensor, negatives: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Cosines over temperature: [B, P] and [B, P, K]."""
    _at_least("temperature", temperature, 0, open_end=True)
    positives, negatives = _wide(positives, negatives)
    return (2 * positives - 1) / temperature, (2 * negatives - 1) / temperature


def _corrected_info_nce(
    positive: Tensor, log_negatives: Tensor, count: int, temperature: float, class_prior: float
) -> Tensor:
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
    return _softplus(log_corrected - positive).sum(1).mean()
