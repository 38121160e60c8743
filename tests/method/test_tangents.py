"""Batch norm's fused tangent against the one that PyTorch makes; within whole encoders: see test_meta_gradient."""

from itertools import product

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor

from metaug_ray.method.tangents import FusedTangents


def normed(
    inputs: Tensor, tangents: dict[str, Tensor], *, training: bool, affine: bool, fused: bool
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Output, its tangent, and the running statistics."""
    generator = torch.Generator().manual_seed(1)
    channels = inputs.shape[1]
    statistics = (
        torch.randn(channels, generator=generator).to(inputs.dtype),
        torch.rand(channels).to(inputs.dtype) + 0.5,
    )
    given = {"inputs": inputs}
    if affine:
        given |= {name: torch.randn(channels, generator=generator).to(inputs.dtype) for name in ("weight", "bias")}
    with torch.no_grad(), forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(value, tangents[name]) if name in tangents else value
            for name, value in given.items()
        }
        arguments = duals.pop("inputs"), *statistics, duals.get("weight"), duals.get("bias"), training, 0.1
        if fused:
            with FusedTangents():
                output = F.batch_norm(*arguments)
        else:
            output = F.batch_norm(*arguments)
        primal, tangent = forward_ad.unpack_dual(output)
    return primal.clone(), None if tangent is None else tangent.clone(), *statistics


def drawn(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


SUBSETS = [
    ("inputs",),
    ("weight",),
    ("bias",),
    ("inputs", "weight"),
    ("inputs", "bias"),
    ("inputs", "weight", "bias"),
    (),
]


@pytest.mark.parametrize("named", SUBSETS, ids=lambda names: "+".join(names) or "none")
@pytest.mark.parametrize("training", [True, False])
def test_is_the_tangent_of_pytorch(named: tuple[str, ...], training: bool) -> None:
    for shape, affine in product([(6, 3), (4, 3, 5, 2)], [True, False]):
        if not affine and {"weight", "bias"} & set(named):
            continue
        inputs = 2 * drawn(*shape, seed=2) + 1
        tangents = {name: drawn(*(shape if name == "inputs" else shape[1:2]), seed=3 + len(name)) for name in named}
        torch.manual_seed(0)
        expected = normed(inputs, tangents, training=training, affine=affine, fused=False)
        torch.manual_seed(0)
        found = normed(inputs, tangents, training=training, affine=affine, fused=True)
        assert (found[1] is None) == (expected[1] is None) == (not named)
        for ours, theirs in zip(found, expected, strict=True):
            if ours is not None:
                torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_bfloat16_is_as_near_as_pytorch() -> None:
    """Both against float64; what autocast gives batch norm: an input in bfloat16."""
    inputs = drawn(8, 4, 9, 9, seed=4).bfloat16()
    tangents = {"inputs": drawn(8, 4, 9, 9, seed=5).bfloat16()}
    exact = normed(inputs.double(), {"inputs": tangents["inputs"].double()}, training=True, affine=False, fused=False)
    errors = []
    for fused in (True, False):
        _, tangent, *_ = normed(inputs, tangents, training=True, affine=False, fused=fused)
        assert tangent is not None
        assert exact[1] is not None
        errors.append(float((tangent.double() - exact[1]).norm() / exact[1].norm()))
    assert errors[0] < 5e-3
    assert errors[0] <= 1.5 * errors[1]


def test_other_functions_go_their_way() -> None:
    with torch.no_grad(), forward_ad.dual_level(), FusedTangents():
        dual = forward_ad.make_dual(torch.tensor([1.0, -2.0]), torch.tensor([3.0, 4.0]))
        primal, tangent = forward_ad.unpack_dual(F.relu(dual))
    assert tangent is not None
    assert primal.tolist() == [1.0, 0.0]
    assert tangent.tolist() == [3.0, 0.0]
