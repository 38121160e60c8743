import math

import pytest
import torch
from torch import Tensor

from metaug_ray.training.rankme import effective_rank


def by_svd(features: Tensor) -> float:
    singular = torch.linalg.svdvals(features.double())
    shares = singular / singular.sum()
    return float((-(shares * shares.clamp(min=1e-300).log()).sum()).exp())


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# More images than are multiplied at a time, and fewer than dimensions.
@pytest.mark.parametrize("shape", [(2500, 24), (30, 24), (24, 24), (10, 300), (1, 8)])
def test_is_the_entropy_of_the_singular_values(shape: tuple[int, int]) -> None:
    features = drawn(*shape) * torch.logspace(-4, 2, shape[1])
    assert effective_rank(features) == pytest.approx(by_svd(features), rel=1e-5)
    assert effective_rank(7 * features.T) == pytest.approx(by_svd(features), rel=1e-5)


@pytest.mark.parametrize("rank", [1, 3, 16])
def test_equal_singular_values_count_the_dimensions(rank: int) -> None:
    left, right = (torch.linalg.qr(drawn(size, rank).double()).Q for size in (50, 16))
    assert effective_rank((5 * left @ right.T).float()) == pytest.approx(rank, rel=1e-4)


def test_collapsed_and_broken_features_have_a_rank_too() -> None:
    assert effective_rank(drawn(8).expand(40, 8)) == pytest.approx(1, rel=1e-4)
    assert effective_rank(torch.zeros(40, 8)) == 0
    broken = drawn(40, 8)
    broken[3, 2] = math.inf
    assert math.isnan(effective_rank(broken))
