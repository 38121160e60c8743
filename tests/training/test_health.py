from pathlib import Path

import numpy as np
import pytest
import torch

from metaug_ray.method.algorithm import GradientNorms, StepOutcome
from metaug_ray.method.objective import Losses
from metaug_ray.method.similarities import Similarities
from metaug_ray.training.health import feature_spread, similarity_histograms
from tests.ranks import run_ranks


def outcome(part: slice) -> StepOutcome:
    generator = torch.Generator().manual_seed(0)
    d = [torch.rand(8, *shape, generator=generator)[part] for shape in ((2,), (2, 50), (2,), (2, 50))]
    zero = torch.zeros(())
    return StepOutcome(
        Losses(zero, zero, zero),
        Similarities(*d[:2]),
        Similarities(*d[2:]),
        torch.zeros(2, 8, 4),
        GradientNorms(zero, zero, zero),
        True,
    )


def test_spread_of_even_and_of_collapsed_features() -> None:
    generator = torch.Generator().manual_seed(0)
    even = torch.nn.functional.normalize(torch.randn(5000, 128, generator=generator), dim=1)
    assert abs(float(feature_spread(even)) - 1) < 0.01
    assert float(feature_spread(even[:1].expand(64, -1))) < 1e-6
    shifted = torch.nn.functional.normalize(even + 3 * even[0], dim=1)
    assert float(feature_spread(shifted)) < 0.4


def test_spread_is_that_of_all_ranks(tmp_path: Path) -> None:
    whole = feature_spread(unlike_halves())
    assert run_ranks(2, tmp_path, spread_with_a_half) == [pytest.approx(float(whole), rel=1e-6)] * 2
    assert float(feature_spread(unlike_halves()[:8])) < 0.9 * whole


def unlike_halves() -> torch.Tensor:
    """Unit vectors, of which the second half lies elsewhere than the first."""
    drawn = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    drawn[:8] += 2
    drawn[8:] -= 2
    return torch.nn.functional.normalize(drawn, dim=1)


def spread_with_a_half(rank: int) -> float:
    return float(feature_spread(unlike_halves()[8 * rank : 8 * rank + 8]))


def test_histograms_are_those_of_numpy_over_all_ranks(tmp_path: Path) -> None:
    whole = outcome(slice(0, 8))
    found = run_ranks(2, tmp_path, histograms_of_a_part)[0]
    expected = {
        "positives": whole.original.positives,
        "negatives": whole.original.negatives,
        "augmented_positives": whole.augmented.positives if whole.augmented else None,
        "augmented_negatives": whole.augmented.negatives if whole.augmented else None,
    }
    assert found.keys() == expected.keys()
    for name, d in expected.items():
        assert d is not None
        counts, _ = np.histogram(d.numpy(), 100, (0, 1))
        np.testing.assert_allclose(found[name], counts / counts.sum(), atol=1e-6)


def histograms_of_a_part(rank: int) -> dict[str, list[float]]:
    return similarity_histograms(outcome(slice(4 * rank, 4 * rank + 4)))
