"""Projection heads g, from representations to features, and prediction heads q, from one view's to the other's."""

from itertools import pairwise
from typing import TYPE_CHECKING

from torch import Tensor, nn

from metaug_ray.method.unit_vectors import unit


class ProjectionHead(nn.Module):
    """Projection head g: a linear layer (CMC), or several with batch norm and ReLU between (SimCLR, NNCLR), then l2
    normalisation. [B, H] to unit features z [B, D].

    Args:
        representation_size: H.
        feature_size: D.
        layers: linear layers.
        hidden_size: units of those before the last.
        output_norm: whether batch norm follows the last, as in NNCLR.
        prediction_hidden_size: hidden units of the prediction head that comes with it; None for none.

    Raises:
        ValueError: there is no layer.
    """

    def __init__(
        self,
        representation_size: int,
        feature_size: int,
        *,
        layers: int = 1,
        hidden_size: int = 2048,
        output_norm: bool = False,
        prediction_hidden_size: int | None = None,
    ) -> None:
        super().__init__()
        if layers < 1:
            raise ValueError(f"layers is {layers}: a projection head has at least 1")
        sizes = [representation_size, *[hidden_size] * (layers - 1), feature_size]
        self.linear: nn.Module = (
            _perceptron(sizes, output_norm=output_norm)
            if layers > 1 or output_norm
            else nn.Linear(representation_size, feature_size)
        )

        self.predictor = (
            None if prediction_hidden_size is None else PredictionHead(feature_size, prediction_hidden_size)
        )

    def forward(self, representations: Tensor) -> Tensor:
        return unit(self.linear(representations))

    def compared(self, representations: Tensor) -> tuple[Tensor, Tensor]:
        """(e, z), unit vectors [B, D]: what the contrast takes, predictions where there is a prediction head, and z."""
        projected = self.linear(representations)
        z = unit(projected)
        return (z if self.predictor is None else self.predictor(projected)), z


class PredictionHead(nn.Module):
    """Prediction head q of NNCLR: two linear layers, batch norm and ReLU between, then l2 normalisation. Features y
    before normalisation [B, D] to unit predictions [B, D].

    Args:
        feature_size: D.
        hidden_size: units between.
    """

    def __init__(self, feature_size: int, hidden_size: int = 4096) -> None:
        super().__init__()
        self.layers = _perceptron([feature_size, hidden_size, feature_size], output_norm=False)

    def forward(self, projected: Tensor) -> Tensor:
        return unit(self.layers(projected))


def _perceptron(sizes: list[int], *, output_norm: bool) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between; a bias that batch norm takes out again is left out."""
    layers: list[nn.Module] = []
    for place, (before, after) in enumerate(pairwise(sizes)):
        last = place == len(sizes) - 2
        normed = output_norm or not last
        layers.append(nn.Linear(before, after, bias=not normed))
        if normed:
            layers.append(nn.BatchNorm1d(after))
        if not last:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


if TYPE_CHECKING:

    class HeadDict(nn.ModuleDict):
        """Projection heads by encoder."""

        def __getitem__(self, encoder: str) -> ProjectionHead: ...

else:
    # At run time the very class, as compilation and export know it.
    HeadDict = nn.ModuleDict
