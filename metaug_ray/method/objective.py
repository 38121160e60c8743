"""What encoders and generators minimise, for any contrast: L_MetAug (Eq. 11) and the generators' objective (Eq. 6)."""

import math
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from metaug_ray.choices import MarginKind, MarginScope, check_choice
from metaug_ray.method.contrast import Contrast
from metaug_ray.method.margins import injected_margins, margin_regularization
from metaug_ray.method.similarities import Similarities


class Losses(NamedTuple):
    """Terms of the objective, scalars."""

    total: Tensor
    """L_MetAug = L_ori + delta * L_aug (+ alpha * R_sigma where encoders are regularised too)."""
    original: Tensor
    """L_ori: contrast of original features."""
    augmented: Tensor
    """L_aug: contrast of original and augmented features together; 0 without generators."""


class Objective(nn.Module):
    """The objectives of encoders (:meth:`forward`) and of generators (:meth:`generator_objective`).

    The variants of the paper are its settings: CMC is NCE or InfoNCE without generators, "only OUCL" the unified
    contrast without them, "only MAG" InfoNCE with them, MetAug the unified contrast with them. A further term goes into
    a subclass: the meta gradient differentiates whatever the two methods return.

    Args:
        contrast: the contrast, e.g. `build_contrast("unified", pairs, beta=16, gamma=0.25)`.
        delta: weight of L_aug (Eq. 11).
        alpha: weight of the margin regulariser R_sigma in the generators' objective (Eq. 6).
        margin: kind of the injected margins.
        margin_scope: what their extremes are taken over (:func:`~metaug_ray.method.margins.injected_margins`).
        regularize_encoders: whether encoders minimise alpha R_sigma too, as in the authors' code; Eq. 11 has it for
            generators alone.
        group: ranks that share a minibatch, for that; None for the default group, or for this process alone where there
            is none.

    Raises:
        ValueError: a weight is negative or not finite, or the margin's kind or scope is unknown.
    """

    def __init__(
        self,
        contrast: Contrast,
        *,
        delta: float = 1e-5,
        alpha: float = 1e-13,
        margin: MarginKind = "large",
        margin_scope: MarginScope = "minibatch",
        regularize_encoders: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__()
        check_choice("margin kind", margin, MarginKind)
        check_choice("margin scope", margin_scope, MarginScope)
        for name, weight in (("delta", delta), ("alpha", alpha)):
            if not 0 <= weight < math.inf:
                raise ValueError(f"{name} is {weight}: a weight is finite and not negative")
        self.contrast = contrast
        self.delta, self.alpha, self.margin = delta, alpha, margin
        self.margin_scope, self.regularize_encoders = margin_scope, regularize_encoders
        self._group = group

    def forward(self, original: Similarities, augmented: Similarities | None) -> Losses:
        """L_MetAug (Eq. 11), what the encoders minimise; a collective call where they are regularised.

        Args:
            original: similarities of original features.
            augmented: likewise of augmented ones; None without generators.
        """
        loss_original = self.contrast(*original)
        if augmented is None:
            return Losses(loss_original, loss_original, torch.zeros_like(loss_original))
        loss_augmented = self.contrast(*(torch.cat(both, 1) for both in zip(original, augmented, strict=True)))
        total = loss_original + self.delta * loss_augmented
        if self.regularize_encoders:
            total = total + self.alpha * self.regularization(original, augmented, group=self._group)
        return Losses(total, loss_original, loss_augmented)

    def generator_objective(
        self,
        losses: Losses,
        original: Similarities,
        augmented: Similarities | None,
        *,
        group: dist.ProcessGroup | None = None,
    ) -> Tensor:
        """L_MetAug + alpha R_sigma (Eq. 6), what the generators minimise, a scalar; a collective call.

        Args:
            losses: what :meth:`forward` gives for these similarities.
            original: similarities of original features.
            augmented: likewise of augmented ones; None without generators, where there is no R_sigma.
            group: ranks that share the minibatch.
        """
        if augmented is None or self.regularize_encoders:
            return losses.total
        return losses.total + self.alpha * self.regularization(original, augmented, group=group)

    def regularization(
        self, original: Similarities, augmented: Similarities, *, group: dist.ProcessGroup | None = None
    ) -> Tensor:
        """R_sigma (Eq. 4), a scalar; a collective call.

        Args:
            original: similarities of original features.
            augmented: likewise of augmented ones.
            group: ranks that share the minibatch.
        """
        sigma_plus, sigma_minus = injected_margins(*original, self.margin, self.margin_scope, group=group)
        return margin_regularization(*augmented, sigma_plus, sigma_minus)
