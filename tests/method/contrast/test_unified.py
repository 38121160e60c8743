"""OUCL at its numerical edges, and what attenuation and centering change."""

from functools import partial

import pytest
import torch

from metaug_ray.method.contrast import unified_contrast, unified_contrast_attenuated, unified_contrast_eq8
from tests.method.contrast.formulas import similarities

EDGE_CONTRASTS = {
    "unified": unified_contrast,
    "eq 8": lambda p, n, beta, gamma: unified_contrast_eq8(p, n, beta=beta, margin=gamma),
    "attenuated": partial(unified_contrast_attenuated, phi=6.0),
}


@pytest.mark.parametrize("name", EDGE_CONTRASTS)
@pytest.mark.parametrize("beta", [2.0, 16.0, 256.0])
@pytest.mark.parametrize("count", [1, 64, 65_536])
@pytest.mark.parametrize("precision", ["float32", "bfloat16 autocast", "bfloat16 inputs"])
def test_unified_contrasts_are_finite_at_the_edges(name: str, beta: float, count: int, precision: str) -> None:
    for positive in (0.0, 1.0):
        for negative in (0.0, 1.0):
            dtype = torch.bfloat16 if precision == "bfloat16 inputs" else torch.float32
            inputs = [
                torch.full((2, 2), positive, dtype=dtype).requires_grad_(),
                torch.full((2, 2, count), negative, dtype=dtype).requires_grad_(),
            ]
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16 autocast"):
                value = EDGE_CONTRASTS[name](*inputs, beta=beta, gamma=0.25)
                exact = EDGE_CONTRASTS[name](*(d.detach().double() for d in inputs), beta=beta, gamma=0.25)
            assert value.dtype == torch.float32
            torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-30)
            # The meta gradient differentiates the gradient once more.
            gradients = torch.autograd.grad(value, inputs, create_graph=True)
            second = torch.autograd.grad(sum(g.float().square().sum() for g in gradients), inputs, allow_unused=True)
            for gradient in [*gradients, *(g for g in second if g is not None)]:
                assert gradient.isfinite().all()


def test_attenuated_at_phi_one_has_the_value_of_eq10_but_not_its_gradient() -> None:
    inputs = [d.requires_grad_() for d in similarities()]
    plain = unified_contrast(*inputs, beta=8.0, gamma=0.25)
    attenuated = unified_contrast_attenuated(*inputs, beta=8.0, gamma=0.25, phi=1.0)
    torch.testing.assert_close(plain, attenuated, rtol=1e-12, atol=0)
    assert (torch.autograd.grad(plain, inputs[0])[0] - torch.autograd.grad(attenuated, inputs[0])[0]).abs().max() > 1e-3


def test_centered_is_blind_to_views_that_turn_away_from_one_another() -> None:
    positives, negatives = similarities()
    unified = partial(unified_contrast, beta=16.0, gamma=0.25)
    assert unified(positives - 0.1, negatives - 0.1) < unified(positives, negatives) - 0.01
    both = [unified(positives - shift, negatives - shift, centered=True) for shift in (0, 0.1)]
    torch.testing.assert_close(*both)
