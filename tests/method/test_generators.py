import pytest
import torch
from torch import nn

from metaug_ray.method.generators import Generators
from metaug_ray.method.unit_vectors import unit


def test_each_view_has_the_authors_network_of_its_own() -> None:
    generators = Generators(3, feature_size=16)
    features = unit(torch.randn(3, 5, 16))
    augmented = generators(features)
    assert augmented.shape == (3, 5, 16)
    torch.testing.assert_close(augmented.norm(dim=-1), torch.ones(3, 5))
    for a, z, expected in zip(generators.generators, features, augmented, strict=True):
        layers = list(a)
        assert [type(layer) for layer in layers] == [
            *(nn.Linear, nn.BatchNorm1d, nn.ReLU) * 2,
            nn.Linear,
        ]
        assert [m.out_features for m in layers if isinstance(m, nn.Linear)] == [2048, 2048, 16]
        torch.testing.assert_close(unit(a(z)), expected)
    # The same input gives another output in another view.
    same = generators(features[:1].expand(3, -1, -1))
    assert (same[0] - same[1]).norm() > 0.1


def test_views_may_share_a_generator_each_going_through_it_by_itself() -> None:
    generators = Generators((0, 1, 0), feature_size=16, hidden_size=8)
    assert (generators.views, len(generators.generators)) == (3, 2)
    features = unit(torch.randn(3, 5, 16))
    augmented = generators(features)
    for view, number in enumerate((0, 1, 0)):
        torch.testing.assert_close(augmented[view], unit(generators.generators[number](features[view])))
    with pytest.raises(ValueError, match="features of 2 views, and generators for 3"):
        generators(features[:2])
