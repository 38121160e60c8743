"""The weighted k-nearest-neighbour classifier (Wu et al. 2018): what features are worth, without training anything."""

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_QUERIES_AT_A_TIME = 1024
_SIMILARITIES_OF = 4096
"""Queries whose similarities with a block of references are in memory together."""

Neighbours = tuple[Tensor, Tensor]
"""Cosines [Q, k] and places int64 [Q, k]."""


def weighted_knn(
    references: Tensor,
    reference_labels: Tensor,
    queries: Tensor,
    *,
    classes: int,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> Tensor:
    """Classify queries by the votes of their k most similar references, each weighing exp(cosine / t).

    Args:
        references: [R, H], of any norm.
        reference_labels: int64 [R], from 0 on.
        queries: [Q, H].
        classes: number of classes.
        neighbours: k; all references where there are fewer.
        temperature: t.

    Returns:
        Labels int64 [Q].

    Raises:
        ValueError: a setting out of range, or no references.
    """
    if not len(references) or neighbours < 1 or not temperature > 0:
        raise ValueError(
            f"kNN needs references, neighbours and a temperature above 0, got {len(references)}, {neighbours}, "
            f"{temperature}"
        )
    predictions = [
        vote(*nearest_neighbours([references], part, neighbours), reference_labels, classes, temperature)
        # All similarities together may not fit.
        for part in queries.split(_QUERIES_AT_A_TIME)
    ]
    return torch.cat(predictions) if predictions else reference_labels.new_empty(0)


def nearest_neighbours(references: Iterable[Tensor], queries: Tensor, k: int) -> Neighbours:
    """The k most similar references of each query. References come in blocks, of which one at a time is in memory.

    Args:
        references: blocks [R_i, H] in their order, of any norm; at least one.
        queries: [Q, H], of any norm, on the same device.
        k: all references where there are fewer.

    Returns:
        Cosines [Q, k], greatest first, and places among all references, int64 [Q, k].
    """
    parts = F.normalize(queries, dim=1).split(_SIMILARITIES_OF)
    found = [
        (part.new_empty(len(part), 0), torch.empty(len(part), 0, dtype=torch.int64, device=part.device))
        for part in parts
    ]
    start = 0
    for block in references:
        unit = F.normalize(block, dim=1)
        for i, part in enumerate(parts):
            cosines, where = (part @ unit.T).topk(min(k, len(unit)))
            found[i] = nearest_of([found[i], (cosines, where + start)], k)
        start += len(block)
    cosines, places = zip(*found, strict=True)
    return torch.cat(cosines), torch.cat(places)


def nearest_of(found: Sequence[Neighbours], k: int) -> Neighbours:
    """The k most similar of what :func:`nearest_neighbours` found among several references, in their order."""
    cosines, places = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    cosines, best = cosines.topk(min(k, cosines.shape[1]))
    return cosines, places.gather(1, best)


def vote(cosines: Tensor, places: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Labels int64 [Q] by the votes of neighbours, as :func:`nearest_neighbours` gives them; `labels` are those of the
    references."""
    # Less the greatest, which changes no comparison and cannot overflow.
    weights = ((cosines - cosines[:, :1]) / temperature).exp()
    votes = torch.zeros(len(cosines), classes, dtype=weights.dtype, device=weights.device)
    return votes.scatter_add_(1, labels[places], weights).argmax(1)
