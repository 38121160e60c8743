"""Meta feature augmentation generators (MAG): networks that turn a feature into a harder one."""

import torch
from torch import Tensor, nn

from metaug_ray.method.unit_vectors import unit


class Generators(nn.Module):
    """One MAG a_v per view, parameters omega: three linear layers with batch norm and ReLU between, then l2
    normalisation.

    Args:
        views: V, how many views.
        feature_size: D.
        hidden_size: units of the two hidden layers (the authors' code: 2048).

    Shape: unit features [V, B, D] to augmented unit features [V, B, D]; B at least 2 in training mode (batch norm).
    """

    def __init__(self, views: int, feature_size: int = 128, hidden_size: int = 2048) -> None:
        super().__init__()
        self.views, self.feature_size = views, feature_size
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
            for _ in range(views)
        )

    def forward(self, features: Tensor) -> Tensor:
        return unit(torch.stack([a(z) for a, z in zip(self.generators, features, strict=True)]))
