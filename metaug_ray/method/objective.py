"""The objective L_MetAug (Eq. 11) and the objective of the generators (Eq. 6), for any contrast."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from metaug_ray.method.choices import check_choice
from metaug_ray.method.margins import MarginKind, injected_margins, margin_regularization
from metaug_ray.method.similarities import Similarities

Contrast = Callable[[Tensor, Tensor], Tensor]
"""(positives, negatives) to a scalar: a function of :mod:`metaug_ray.method.contrast`, its settings bound by
`partial`."""


class Losses(NamedTuple):
    """Terms of the objective, scalars."""

    total: Tensor
    """L_MetAug = L_ori + delta * L_aug."""
    original: Tensor
    """L_ori: contrast of original features."""
    augmented: Tensor
    """L_aug: contrast of original and augmented features together; 0 without generators."""


class Objective(nn.Module):
    """What encoders and generators minimise.

    The variants of the paper are its settings: CMC is NCE or InfoNCE without generators, "only OUCL" the unified
    contrast without them, "only MAG" InfoNCE with them, MetAug the unified contrast with them.

    Args:
        contrast: the contrast, e.g. `partial(unified_contrast, beta=16, gamma=0.25)`.
        delta: weight of L_aug (Eq. 11).
        alpha: weight of the margin regulariser R_sigma in the generators' objective (Eq. 6).
        margin: kind of the injected margins.

    Raises:
        ValueError: a weight is negative or not finite, or the margin's kind is unknown.
    """

    def __init__(
        self, contrast: Contrast, *, delta: float = 1e-5, alpha: float = 1e-13, margin: MarginKind = "large"
    ) -> None:
        super().__init__()
        check_choice("margin kind", margin, MarginKind)
        for name, weight in (("delta", delta), ("alpha", alpha)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} is {weight}: a weight is finite and not negative")
        self.contrast = contrast
        self.delta, self.alpha, self.margin = delta, alpha, margin

    def forward(self, original: Similarities, augmented: Similarities | None) -> Losses:
        """L_MetAug of the similarities of original features and, where there are generators, of augmented ones."""
        loss_original = self.contrast(original.positives, original.negatives)
        if augmented is None:
            return Losses(loss_original, loss_original, torch.zeros_like(loss_original))
        loss_augmented = self.augmented(original, augmented)
        return Losses(loss_original + self.delta * loss_augmented, loss_original, loss_augmented)

    def augmented(self, original: Similarities, augmented: Similarities) -> Tensor:
        """L_aug: the contrast of original and augmented pairs together."""
        return self.contrast(
            torch.cat([original.positives, augmented.positives], 1),
            torch.cat([original.negatives, augmented.negatives], 1),
        )

    def regularization(
        self, original: Similarities, augmented: Similarities, *, group: dist.ProcessGroup | None = None
    ) -> Tensor:
        """R_sigma, with margins over the minibatch of all ranks; a collective call."""
        sigma_plus, sigma_minus = injected_margins(*original, self.margin, group=group)
        return margin_regularization(*augmented, sigma_plus, sigma_minus)
