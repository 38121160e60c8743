"""Targets of SimCLR (Chen et al. 2020): the other view's features of the global batch."""

from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from metaug_ray.method.collectives import gather_batch
from metaug_ray.method.precision import autocast
from metaug_ray.method.similarities import Similarities, ordered_pairs
from metaug_ray.method.targets.global_batch import Places, WholeBatchKeys


class BatchTargets:
    """An anchor's positive is the other view of its image, its negatives are both views of all other images of the
    global batch: with InfoNCE the NT-Xent loss, summed over the two pairs. Gradients flow through both sides.

    Args:
        views: V.
        feature_size: D.
        group: ranks that share a minibatch; None for the default group, or for this process alone where there is none.
    """

    kept_as: ClassVar[str | None] = None

    def __init__(self, views: int, feature_size: int, *, group: dist.ProcessGroup | None = None) -> None:
        self.views, self.feature_size = views, feature_size
        self._keys = BatchKeys(group)

    def ask(
        self, index: Tensor, step: int, *, stream: str = "regular", global_index: Tensor | None = None
    ) -> "BatchKeys":
        """Nothing is drawn."""
        return self._keys

    def recall(self, index: Tensor, step: int, rows: Tensor | None) -> "BatchKeys":
        """Features are their own keys."""
        return self._keys

    def empty_rows(self, batch: int) -> None:
        """There are none."""

    def update(self, keys: "BatchKeys", projections: Tensor) -> None:
        """Nothing is kept."""

    def state_dict(self) -> dict[str, Any]:
        """Empty."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing is kept."""


class BatchKeys(WholeBatchKeys):
    """The features themselves: those of each pass are its keys."""

    def similarities(self, anchors: Tensor, features: Tensor) -> Similarities:
        """Positives d(e_u[i], z_v[i]) and negatives d(e_u[i], z_w[k]), w both views of the pair, k all images but i.

        Args:
            anchors: e_u or a_u(e_u), unit vectors [V, B, D] of this rank.
            features: z, unit vectors [V, B, D] of this rank.

        Returns:
            [B, P] and [B, P, 2 (W B - 1)], float32 (float64 for float64 anchors), whatever autocast is on.

        Raises:
            ValueError: the global batch has one image.
        """
        dtype = torch.promote_types(anchors.dtype, torch.float32)
        places = Places(anchors.shape[1], anchors.device, self._group)
        positives, negatives = [], []
        with autocast(anchors.device, None):
            keys = gather_batch(features.to(dtype), self._group)
            dots = torch.einsum("ubd,wgd->uwbg", anchors.to(dtype), keys)
            sides = {(u, w): places.split(dots[u, w]) for u in range(len(keys)) for w in range(len(keys))}
            for u, v in ordered_pairs(len(keys)):
                positives.append(sides[u, v][0])
                negatives.append(torch.cat([sides[u, w][1] for w in sorted((u, v))], 1))
        return Similarities(torch.stack(positives, 1), torch.stack(negatives, 1))
