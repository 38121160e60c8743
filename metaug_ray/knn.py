"""The weighted k-nearest-neighbour classifier (Wu et al. 2018): what features are worth, without training anything."""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

_QUERIES_AT_A_TIME = 1024


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


def nearest_neighbours(references: Iterable[Tensor], queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k most similar references of each query. References come in blocks, of which one at a time is in memory.

    Args:
        references: blocks [R_i, H] in their order, of any norm; at least one.
        queries: [Q, H], of any norm, on the same device.
        k: all references where there are fewer.

    Returns:
        Cosines [Q, k], greatest first, and places among all references, int64 [Q, k].
    """
    queries = F.normalize(queries, dim=1)
    cosines = queries.new_empty(len(queries), 0)
    places = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
    start = 0
    for block in references:
        found, where = (queries @ F.normalize(block, dim=1).T).topk(min(k, len(block)))
        cosines, places = torch.cat([cosines, found], 1), torch.cat([places, where + start], 1)
        cosines, best = cosines.topk(min(k, cosines.shape[1]))
        places = places.gather(1, best)
        start += len(block)
    return cosines, places


def vote(cosines: Tensor, places: Tensor, labels: Tensor, classes: int, temperature: float) -> Tensor:
    """Labels int64 [Q] by the votes of neighbours, as :func:`nearest_neighbours` gives them; `labels` are those of the
    references."""
    # Less the greatest, which changes no comparison and cannot overflow.
    weights = ((cosines - cosines[:, :1]) / temperature).exp()
    votes = torch.zeros(len(cosines), classes, dtype=weights.dtype, device=weights.device)
    return votes.scatter_add_(1, labels[places], weights).argmax(1)
