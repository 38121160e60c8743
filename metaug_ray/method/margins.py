"""Injected margins and the regulariser that keeps augmented features informative (paper, Eq. 4-5 and appendix A.2)."""

import torch
import torch.distributed as dist
from torch import Tensor

from metaug_ray.choices import MarginKind, MarginScope, check_choice
from metaug_ray.method import distributed


def injected_margins(
    positives: Tensor,
    negatives: Tensor,
    kind: MarginKind = "large",
    scope: MarginScope = "minibatch",
    *,
    group: dist.ProcessGroup | None = None,
) -> tuple[Tensor, Tensor]:
    """Margins between positives and negatives, from the extremes over the minibatch of all ranks, or of each anchor.

    With min+ the least similar positive and max- the most similar negative: `large` takes their minimum for sigma+ and
    their maximum for sigma-, `small` the other way round, `medium` their mean for both.

    Args:
        positives: similarities of original features, of any shape for `minibatch`, [B, ...] for `anchor`.
        negatives: likewise.
        kind: name of how far augmented features may go (appendix A.2).
        scope: what the extremes are taken over: the `minibatch`, as the paper says, or each `anchor` by itself, as the
            authors' code does.
        group: ranks that share the minibatch; a collective call with `minibatch`.

    Returns:
        (sigma+, sigma-) without gradient, scalars or one for each anchor, [B].

    Raises:
        ValueError: unknown kind or scope.
    """
    check_choice("margin kind", kind, MarginKind)
    check_choice("margin scope", scope, MarginScope)
    if scope == "anchor":
        least_positive, most_negative = positives.detach().flatten(1).amin(1), negatives.detach().flatten(1).amax(1)
    else:
        extremes = torch.stack([positives.detach().min(), -negatives.detach().max()])
        distributed.all_reduce(extremes, dist.ReduceOp.MIN, group)
        least_positive, most_negative = extremes[0], -extremes[1]
    low, high = torch.minimum(least_positive, most_negative), torch.maximum(least_positive, most_negative)
    match kind:
        case "large":
            return low, high
        case "medium":
            return (low + high) / 2, (low + high) / 2
        case "small":
            return high, low


def margin_regularization(
    positives_aug: Tensor, negatives_aug: Tensor, sigma_plus: Tensor, sigma_minus: Tensor
) -> Tensor:
    """R_sigma = mean [positives_aug - sigma+]_+ + mean [sigma- - negatives_aug]_+ (Eq. 4), a scalar.

    Args:
        positives_aug: similarities of augmented features, any shape that begins with the margins'.
        negatives_aug: likewise.
        sigma_plus, sigma_minus: from :func:`injected_margins`.
    """
    above = positives_aug - _over(sigma_plus, positives_aug)
    below = _over(sigma_minus, negatives_aug) - negatives_aug
    return torch.relu(above).mean() + torch.relu(below).mean()


def _over(margin: Tensor, similarities: Tensor) -> Tensor:
    """A margin in a shape that meets all similarities of its anchor."""
    return margin.view(*margin.shape, *[1] * (similarities.ndim - margin.ndim))
