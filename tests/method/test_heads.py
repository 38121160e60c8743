from typing import Any

import pytest
import torch
from torch import nn

from metaug_ray.method.heads import ProjectionHead
from metaug_ray.method.unit_vectors import unit


def test_a_head_is_a_linear_layer_and_a_normalisation() -> None:
    head = ProjectionHead(6, 4)
    representations = torch.randn(3, 6)
    projected = representations @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(representations), projected / projected.norm(dim=-1, keepdim=True))


def test_simclrs_and_nnclrs_heads_have_their_papers_layers() -> None:
    def layers(**of: Any) -> list[str]:
        head = ProjectionHead(6, 4, hidden_size=8, **of)
        return [type(layer).__name__ for layer in head.linear.children()]

    inner = ["Linear", "BatchNorm1d", "ReLU"]
    assert layers(layers=2) == [*inner, "Linear"]
    assert layers(layers=3, output_norm=True) == [*inner, *inner, "Linear", "BatchNorm1d"]
    sizes = [tuple(weight.shape) for weight in ProjectionHead(6, 4, layers=3, hidden_size=8).parameters()]
    assert [size for size in sizes if len(size) == 2] == [(8, 6), (8, 8), (4, 8)]


def test_the_prediction_head_takes_the_features_before_normalisation() -> None:
    head = ProjectionHead(6, 4, layers=2, hidden_size=8, prediction_hidden_size=10).eval()
    representations = torch.randn(3, 6)
    features, projections = head.compared(representations)
    torch.testing.assert_close(projections, head(representations))
    assert head.predictor is not None
    torch.testing.assert_close(features, unit(head.predictor.layers(head.linear(representations))))
    assert [type(layer) for layer in head.predictor.layers] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert [layer.out_features for layer in head.predictor.layers if isinstance(layer, nn.Linear)] == [10, 4]


def test_without_a_prediction_head_the_features_are_the_projections() -> None:
    features, projections = ProjectionHead(6, 4).compared(torch.randn(3, 6))
    assert features is projections


def test_a_head_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="layers is 0"):
        ProjectionHead(6, 4, layers=0)
