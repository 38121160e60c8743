"""Accuracies of classifiers."""

from torch import Tensor


def right_in_top(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether each label is among the k classes of the greatest logits (all, where there are fewer classes).

    Args:
        logits: [N, C].
        labels: int64 [N].
        k: number of classes.

    Returns:
        bool [N].
    """
    best = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (best == labels[:, None]).any(1)


def top_k_accuracy(logits: Tensor, labels: Tensor, k: int) -> float:
    """Share of the rows [N, C] whose label is among the k greatest."""
    return float(right_in_top(logits, labels, k).double().mean())
