"""Targets of NNCLR (Dwibedi et al. 2021) and MetAug*: nearest neighbours of the other view in a support set."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from metaug_ray.method.collectives import gather_batch
from metaug_ray.method.precision import autocast
from metaug_ray.method.similarities import Similarities, ordered_pairs, stacked
from metaug_ray.method.targets.global_batch import Places, WholeBatchKeys
from metaug_ray.method.targets.support_set import SupportSet


class NeighbourTargets:
    """The neighbour of one view of an image is told from the other view's predictions of all images of the global
    batch: its own prediction is the positive, the others are the negatives.

    Args:
        views: for each view, the number of its encoder, from 0 on.
        support: the support set, with rows of each encoder; the first view of each enters it.
        feature_size: D.
        group: ranks that share a minibatch; None for the default group, or for this process alone where there is none.
    """

    kept_as: ClassVar[str | None] = "support_set"

    def __init__(
        self,
        views: Sequence[int],
        support: SupportSet,
        feature_size: int,
        *,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self.views, self.feature_size, self.support = len(views), feature_size, support
        self._encoders, self.group = tuple(views), group
        self._first_views = [self._encoders.index(encoder) for encoder in range(max(self._encoders) + 1)]

    def neighbours(self, projections: Tensor) -> Tensor:
        """n, the nearest rows of the support set, [V, B, D], of z [V, B, D]; constants of the gradient."""
        with torch.no_grad(), autocast(projections.device, None):
            found = [
                self.support.rows[encoder, self.support.nearest(z.detach(), encoder)].to(z.dtype)
                for encoder, z in zip(self._encoders, projections, strict=True)
            ]
        return torch.stack(found)

    def ask(
        self, index: Tensor, step: int, *, stream: str = "regular", global_index: Tensor | None = None
    ) -> "_Lookup":
        """Neighbours are looked up once the features are known."""
        return _Lookup(self)

    def recall(self, index: Tensor, step: int, rows: Tensor | None) -> "NeighbourKeys":
        """The neighbours that were found, in `rows` [V, B, D]."""
        assert rows is not None
        return NeighbourKeys(rows, self.group)

    def empty_rows(self, batch: int) -> Tensor:
        """Zeros [V, B, D]."""
        kept = self.support.rows
        return kept.new_zeros(
            self.views, batch, self.feature_size, dtype=torch.promote_types(kept.dtype, torch.float32)
        )

    def update(self, keys: "NeighbourKeys", projections: Tensor) -> None:
        """The first view's z of the global batch take the place of the oldest rows. A collective call."""
        with torch.no_grad():
            self.support.enqueue(gather_batch(stacked(projections, self._first_views), self.group))

    def state_dict(self) -> dict[str, Any]:
        """The support set's."""
        return self.support.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the support set's."""
        self.support.load_state_dict(state)


class _Lookup:
    """The support set, before the features are known that are looked up in it."""

    divisible = False

    def __init__(self, targets: NeighbourTargets) -> None:
        self._targets = targets

    def keys(self, projections: Tensor) -> "NeighbourKeys":
        return NeighbourKeys(self._targets.neighbours(projections), self._targets.group)


class NeighbourKeys(WholeBatchKeys):
    """The neighbours of one minibatch.

    Args:
        neighbours: n, unit vectors [V, B, D] of this rank.
        group: ranks that share a minibatch.
    """

    def __init__(self, neighbours: Tensor, group: dist.ProcessGroup | None = None) -> None:
        super().__init__(group)
        self.neighbours = self.rows = neighbours

    def similarities(self, anchors: Tensor, features: Tensor) -> Similarities:
        """Positives d(n_v[i], e_u[i]) and negatives d(n_v[i], e_u[k]), k of all images but i.

        Args:
            anchors: e_u or a_u(e_u), unit vectors [V, B, D] of this rank.
            features: not needed.

        Returns:
            [B, P] and [B, P, W B - 1], float32 (float64 for float64 anchors), whatever autocast is on.

        Raises:
            ValueError: the global batch has one image.
        """
        dtype = torch.promote_types(anchors.dtype, torch.float32)
        places = Places(anchors.shape[1], anchors.device, self._group)
        with autocast(anchors.device, None):
            predictions = gather_batch(anchors.to(dtype), self._group)
            neighbours = self.neighbours.to(dtype)
            pairs = [places.split(neighbours[v] @ predictions[u].T) for u, v in ordered_pairs(len(anchors))]
        positives, negatives = zip(*pairs, strict=True)
        return Similarities(torch.stack(positives, 1), torch.stack(negatives, 1))
