"""Injected margins and the regulariser that keeps augmented features informative (paper, Eq. 4-5 and appendix A.2)."""

import torch
import torch.distributed as dist
from torch import Tensor

from metaug_ray.choices import MarginKind, check_choice
from metaug_ray.method import distributed


def injected_margins(
    positives: Tensor, negatives: Tensor, kind: MarginKind = "large", *, group: dist.ProcessGroup | None = None
) -> tuple[Tensor, Tensor]:
    """Margins between positives and negatives, from the extremes over the minibatch of all ranks.

    With min+ the least similar positive and max- the most similar negative: `large` takes their minimum for sigma+ and
    their maximum for sigma-, `small` the other way round, `medium` their mean for both.

    Args:
        positives: similarities of original features, any shape.
        negatives: likewise.
        kind: name of how far augmented features may go (appendix A.2).
        group: ranks that share the minibatch; a collective call.

    Returns:
        (sigma+, sigma-), scalars without gradient.

    Raises:
        ValueError: unknown kind.
    """
    check_choice("margin kind", kind, MarginKind)
    extremes = torch.stack([positives.detach().min(), -negatives.detach().max()])
    least_positive, most_negative = distributed.all_reduce(extremes, dist.ReduceOp.MIN, group) * extremes.new_tensor(
        [1, -1]
    )
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
        positives_aug: similarities of augmented features, any shape.
        negatives_aug: likewise.
        sigma_plus, sigma_minus: from :func:`injected_margins`.
    """
    return torch.relu(positives_aug - sigma_plus).mean() + torch.relu(sigma_minus - negatives_aug).mean()
