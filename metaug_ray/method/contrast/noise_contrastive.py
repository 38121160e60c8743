"""Noise-contrastive estimation as CMC uses it (Wu et al. 2018): telling the positive from K uniform noise draws."""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from metaug_ray.method import distributed
from metaug_ray.method.contrast.arithmetic import logits, softplus


def nce(positives: Tensor, negatives: Tensor, *, temperature: float = 0.07, log_normalizer: Tensor) -> Tensor:
    """Noise-contrastive estimation within each ordered pair, summed over the pairs.

    With Z = N e^{log_normalizer}, h = (e^l / Z) / (e^l / Z + K / N); the data set's size N cancels:
    -log h(l+) - sum_k log(1 - h(l-_k)), per pair; l = cosine / temperature.

    Args:
        positives: similarities d+, [B, P].
        negatives: similarities d-, [B, P, K] or [B, P * K].
        temperature: t, above 0.
        log_normalizer: log of the mean of e^l over the data set for each pair, [P], from :func:`nce_log_normalizer`.

    Returns:
        The mean over anchors, a scalar.

    Raises:
        ValueError: the shapes do not fit, or the temperature is out of range.
    """
    positive, negative = logits(positives, negatives, temperature)
    log_odds = log_normalizer.to(positive.dtype) + math.log(negative.shape[-1])
    per_pair = softplus(log_odds - positive) + softplus(negative - log_odds.unsqueeze(-1)).sum(-1)
    return per_pair.sum(1).mean()


def nce_log_normalizer(
    positives: Tensor,
    negatives: Tensor,
    *,
    temperature: float = 0.07,
    group: dist.ProcessGroup | None = None,
) -> Tensor:
    """Estimate the normaliser of :func:`nce` from a minibatch, over all ranks; a collective call.

    Args:
        positives: similarities d+, [B, P].
        negatives: similarities d-, [B, P, K] or [B, P * K].
        temperature: t, above 0.
        group: ranks that share the minibatch.

    Returns:
        log mean e^l of each pair, float64 [P], without gradient.

    Raises:
        ValueError: the shapes do not fit, or the temperature is out of range.
    """
    positive, negative = logits(positives.detach().double(), negatives.detach().double(), temperature)
    mean = torch.cat([positive.unsqueeze(-1), negative], -1).exp().mean((0, 2))
    distributed.average([mean], group)
    return mean.log()


class NoiseContrastiveEstimation(nn.Module):
    """:func:`nce` with the normaliser that CMC uses: estimated on the first minibatch, constant from then on.

    The normaliser is a buffer, so a checkpoint carries it.

    Args:
        pairs: P, ordered pairs of views.
        temperature: t, above 0.
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
