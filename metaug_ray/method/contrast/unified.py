"""The optimization-driven unified contrast (OUCL): every positive of an anchor against every negative of it.

Its double sum over pairs factorises into two log-sum-exps, so it costs O(P + P K).
"""

import torch
from torch import Tensor

from metaug_ray.method.contrast.arithmetic import check_at_least, softplus, wide


def unified_contrast(
    positives: Tensor, negatives: Tensor, *, beta: float, gamma: float, centered: bool = False
) -> Tensor:
    """OUCL, Eq. 10: (1/beta) log(1 + sum_{k-} sum_{k+} exp(beta((1 - d+)^2 + (d-)^2 - 2 gamma^2))).

    Args:
        positives: similarities d+, [B, P].
        negatives: similarities d-, [B, P, K] or [B, P * K].
        beta: inverse temperature, above 0; the paper searches 2 to 256.
        gamma: relaxation factor; the paper searches 0.15 to 0.50.
        centered: whether to compare similarities relative to the mean negative of their anchor and pair, d - mean_k
            d-_k + 1/2. Not in the paper. InfoNCE does not change when all similarities of an anchor rise or fall alike.
            OUCL does: it falls when two views turn away from one another as a whole, whatever that does to positives,
            so that features are spent on a mean that tells no image from another. Centered, that gains nothing.

    Returns:
        The mean over anchors, a scalar.

    Raises:
        ValueError: the shapes do not fit, or beta is out of range.
    """
    check_at_least("beta", beta, 0, open_end=True)
    positives, negatives = _relative(positives, negatives, centered)
    return _unified(
        beta * ((1 - positives).square() - gamma**2),
        beta * (negatives.square() - gamma**2),
        beta,
    )


def unified_contrast_eq8(
    positives: Tensor, negatives: Tensor, *, beta: float, margin: float, centered: bool = False
) -> Tensor:
    """OUCL without weighting, Eq. 8: (1/beta) log(1 + sum_{k-} sum_{k+} exp(beta(d- - d+ + lambda))).

    Args:
        positives: similarities d+, [B, P].
        negatives: similarities d-, [B, P, K] or [B, P * K].
        beta: inverse temperature, above 0.
        margin: lambda.
        centered: see :func:`unified_contrast`.

    Returns:
        The mean over anchors, a scalar.

    Raises:
        ValueError: the shapes do not fit, or beta is out of range.
    """
    check_at_least("beta", beta, 0, open_end=True)
    positives, negatives = _relative(positives, negatives, centered)
    return _unified(beta * (margin - positives), beta * negatives, beta)


def unified_contrast_attenuated(
    positives: Tensor, negatives: Tensor, *, beta: float, gamma: float, phi: float, centered: bool = False
) -> Tensor:
    """OUCL with attenuated weights, Eq. 9 and section 4.4.

    The weights [(1 - d+)/phi + gamma]_+ and [d-/phi + gamma]_+ are constants of the gradient, as in Circle loss. At phi
    = 1 the value, not the gradient, is Eq. 10's.

    Args:
        positives: similarities d+, [B, P].
        negatives: similarities d-, [B, P, K] or [B, P * K].
        beta: inverse temperature, above 0.
        gamma: relaxation factor.
        phi: attenuation phi_dec, at least 1; best at 6 in the paper's figure 3.
        centered: see :func:`unified_contrast`.

    Returns:
        The mean over anchors, a scalar.

    Raises:
        ValueError: the shapes do not fit, or beta or phi is out of range.
    """
    check_at_least("beta", beta, 0, open_end=True)
    check_at_least("phi", phi, 1)
    positives, negatives = _relative(positives, negatives, centered)
    weight_positive = torch.relu((1 - positives) / phi + gamma).detach()
    weight_negative = torch.relu(negatives / phi + gamma).detach()
    return _unified(
        -beta * weight_positive * (positives - (1 - gamma)),
        beta * weight_negative * (negatives - gamma),
        beta,
    )


def _relative(positives: Tensor, negatives: Tensor, centered: bool) -> tuple[Tensor, Tensor]:
    """Similarities to contrast, in float32 at least, [B, P] and [B, P, K]."""
    positives, negatives = wide(positives, negatives)
    if not centered:
        return positives, negatives
    mean = negatives.mean(2) - 0.5
    return positives - mean, negatives - mean.unsqueeze(2)


def _unified(positive_exponents: Tensor, negative_exponents: Tensor, beta: float) -> Tensor:
    """(1/beta) log(1 + sum_{k-} sum_{k+} e^{p + n}), mean over anchors."""
    return softplus(negative_exponents.logsumexp((1, 2)) + positive_exponents.logsumexp(1)).mean() / beta
