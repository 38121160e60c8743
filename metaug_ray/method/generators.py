"""Meta feature augmentation generators (MAG): networks that turn a feature into a harder one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metaug_ray.method.unit_vectors import unit


class Generators(nn.Module):
    """One MAG a_v per view, or one for several, parameters omega: three linear layers with batch norm and ReLU between,
    then l2 normalisation. Views that share one go through it each by itself.

    Args:
        views: V, how many views; or for each view the number of its generator, from 0 on.
        feature_size: D.
        hidden_size: units of the two hidden layers (the authors' code: 2048).

    Attributes:
        views: V.

    Shape: unit features [V, B, D] to augmented unit features [V, B, D]; B at least 2 in training mode (batch norm).
    """

    def __init__(self, views: int | Sequence[int], feature_size: int = 128, hidden_size: int = 2048) -> None:
        super().__init__()
        self._numbers = tuple(range(views)) if isinstance(views, int) else tuple(views)
        self.views, self.feature_size = len(self._numbers), feature_size
        self.generators = nn.ModuleList(
            nn.Sequential(
                nn.Linear(feature_size, hidden_size),
                nn.BatchNorm1d(hidden_size),
                nn.ReLU(),
                nn.Linear(hidden_size, hidden_size),
                nn.BatchNorm1d(hidden_size),
                nn.ReLU(),
                nn.Linear(hidden_size, feature_size),
            )
            for _ in range(max(self._numbers) + 1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Augmented features.

        Raises:
            ValueError: of another number of views.
        """
        if len(features) != self.views:
            raise ValueError(f"features of {len(features)} views, and generators for {self.views}")
        return torch.stack([self.of_view(view, z) for view, z in enumerate(features)])

    def of_view(self, view: int, features: Tensor) -> Tensor:
        """Augmented features of one view, [B, D], by its number."""
        return unit(self.generators[self._numbers[view]](features))
