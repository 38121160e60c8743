import pytest
import torch

from metaug_ray.method.unit_vectors import unit


@pytest.mark.parametrize(
    ("given", "made"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_unit_vectors_are_in_float32_at_least(given: torch.dtype, made: torch.dtype) -> None:
    features = unit(torch.randn(3, 5, 8, dtype=torch.float64).to(given))
    assert features.dtype == made
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(3, 5, dtype=made))
