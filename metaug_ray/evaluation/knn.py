"""The weighted k-nearest-neighbour classifier (Wu et al. 2018): what features are worth, without training anything."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor


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
    references, queries = F.normalize(references, dim=1), F.normalize(queries, dim=1)
    predictions = []
    # A part of the queries at a time: all similarities together may not fit.
    for part in queries.split(1024):
        similarities, nearest = (part @ references.T).topk(min(neighbours, len(references)))
        # Less the greatest, which changes no comparison and cannot overflow.
        weights = ((similarities - similarities[:, :1]) / temperature).exp()
        votes = torch.zeros(len(part), classes, dtype=weights.dtype, device=weights.device)
        predictions.append(votes.scatter_add_(1, reference_labels[nearest], weights).argmax(1))
    return torch.cat(predictions) if predictions else reference_labels.new_empty(0)


def nearest_neighbours(
    references: NDArray[np.float32], queries: NDArray[np.float32], k: int, rows: int = 65_536
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k most similar references of a few queries, reading so many rows of the references at a time.

    Args:
        references: [R, H], of any norm; may be a file that is mapped into memory.
        queries: [Q, H].
        k: all references where there are fewer.

    Returns:
        Cosines [Q, k], greatest first, and indices [Q, k].
    """
    asked = F.normalize(torch.tensor(queries), dim=1)
    similarities = torch.cat(
        [
            asked @ F.normalize(torch.tensor(references[start : start + rows]), dim=1).T
            for start in range(0, len(references), rows)
        ],
        1,
    )
    values, indices = similarities.topk(min(k, len(references)))
    return values.numpy(), indices.numpy()
