"""Projection heads g: from representations to features."""

from torch import Tensor, nn

from metaug_ray.method.unit_vectors import unit


class ProjectionHead(nn.Module):
    """Projection head g_v: one linear layer, then l2 normalisation. [B, H] to unit features [B, D].

    Args:
        representation_size: H.
        feature_size: D.
    """

    def __init__(self, representation_size: int, feature_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(representation_size, feature_size)

    def forward(self, representations: Tensor) -> Tensor:
        return unit(self.linear(representations))
