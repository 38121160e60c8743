import pytest
import torch

from metaug_ray.evaluation.moments import std_mean


@pytest.mark.parametrize("rows", [1, 7, 1000, 3000])
def test_blocks_have_the_moments_of_the_whole(rows: int) -> None:
    """Among them columns whose mean is a million times their deviation, where sums of squares would leave nothing."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3000, 40, generator=generator, dtype=torch.float64) * torch.logspace(-3, 3, 40)
    values = (values + torch.linspace(-1000, 1000, 40)).float()
    # Later rows are elsewhere.
    values[2000:] += torch.logspace(-3, 3, 40)
    deviation, mean = torch.std_mean(values.double(), 0, correction=0)
    found_deviation, found_mean = std_mean(values.split(rows))
    torch.testing.assert_close(found_deviation, deviation.float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(found_mean, mean.float(), rtol=1e-6, atol=1e-6)


def test_what_never_changes_has_no_deviation() -> None:
    deviation, mean = std_mean(torch.full((10, 2), 0.1).split(3))
    assert deviation.tolist() == [0, 0]
    assert mean.tolist() == torch.full((2,), 0.1).tolist()


def test_no_rows_are_named() -> None:
    with pytest.raises(ValueError, match="got no rows"):
        std_mean([torch.empty(0, 3)])
