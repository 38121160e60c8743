"""The InfoNCE family at its numerical edges, and where its members meet."""

import pytest
import torch

from metaug_ray.method.contrast import Contrast, debiased_info_nce, hard_info_nce, info_nce
from tests.method.contrast.formulas import similarities


@pytest.mark.parametrize("contrast", [info_nce, debiased_info_nce, hard_info_nce])
@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("count", [1, 65_536])
def test_info_nce_family_is_finite_at_the_edges(contrast: Contrast, temperature: float, count: int) -> None:
    for positive in (0.0, 1.0):
        for negative in (0.0, 1.0):
            inputs = [
                torch.full((2, 2), positive).requires_grad_(),
                torch.full((2, 2, count), negative).requires_grad_(),
            ]
            value = contrast(*inputs, temperature=temperature)  # type: ignore[call-arg]
            for result in (value, *torch.autograd.grad(value, inputs)):
                assert result.isfinite().all()


def test_hard_with_no_concentration_is_debiased_and_without_prior_info_nce() -> None:
    inputs = similarities()
    debiased = debiased_info_nce(*inputs, class_prior=0.05)
    torch.testing.assert_close(hard_info_nce(*inputs, class_prior=0.05, concentration=0.0), debiased)
    torch.testing.assert_close(debiased_info_nce(*inputs, class_prior=0.0), info_nce(*inputs))
