"""Synchronised batch norm: PyTorch's own for one process; over ranks, that of one process on the global batch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.func import functional_call

from metaug_ray.method import distributed
from metaug_ray.method.batch_norm import SynchronizedBatchNorm, synchronize_batch_norm
from metaug_ray.method.buffers import fixed_buffers
from metaug_ray.method.linearization import Linearization
from tests.ranks import run_ranks

SHAPES = ((8, 3), (8, 3, 5, 4))


def norms(momentum: float | None = 0.1) -> list[nn.Module]:
    made: list[nn.Module] = [nn.BatchNorm1d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)]
    for norm in made:
        norm.double()
        with torch.no_grad():
            for parameter, values in zip(norm.parameters(), ([0.5, 2.0, -1.0], [0.1, 0.2, 0.3]), strict=True):
                parameter.copy_(torch.tensor(values))
    return made


def given(shape: tuple[int, ...], seed: int) -> Tensor:
    # A mean that is large beside the deviation: what E[x^2] - E[x]^2 would get wrong.
    return 1e3 + torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class _Shifted(nn.Module):
    """A batch norm whose input moves with a parameter."""

    def __init__(self, norm: nn.Module, inputs: Tensor) -> None:
        super().__init__()
        self.norm, self.shift = norm, nn.Parameter(inputs.detach().clone())

    def forward(self, images: list[Tensor]) -> SimpleNamespace:
        return SimpleNamespace(features=self.norm(images[0] + self.shift))


def _dual_of_all(module: nn.Module, inputs: Tensor, tangent: Tensor) -> Tensor:
    """The tangent where input, weight and bias move."""
    duals = {name: forward_ad.make_dual(p.detach(), torch.cos(p)) for name, p in module.named_parameters()}
    with fixed_buffers(module):
        made = functional_call(module, duals, (forward_ad.make_dual(inputs, tangent),))
    moved: Tensor = forward_ad.unpack_dual(made).tangent
    return moved


def passes(rank: int, synchronized: bool = True, momentum: float | None = 0.1) -> list[dict[str, Tensor]]:
    """Everything that a batch norm gives, for each shape: of this rank's part of the batch."""
    seen = []
    for norm, shape in zip(norms(momentum), SHAPES, strict=True):
        module = nn.Sequential(norm)
        if synchronized:
            synchronize_batch_norm(module)
        size = shape[0] // distributed.world_size()
        part = slice(rank * size, (rank + 1) * size)
        x = given(shape, 0)[part].requires_grad_()
        weights, tangent, other = (given(shape, seed)[part] - 1e3 for seed in (1, 2, 3))
        output = module(x)
        parameters = list(module.parameters())
        (gradient, *of_parameters) = torch.autograd.grad(
            (output.sin() * weights).sum(), [x, *parameters], create_graph=True
        )
        (second,) = torch.autograd.grad((gradient * other).sum(), x)
        with torch.no_grad(), forward_ad.dual_level():
            dual = module(forward_ad.make_dual(x.detach(), tangent))
            forward = forward_ad.unpack_dual(dual).tangent
            seen_moving = _dual_of_all(module, x.detach(), tangent)
        recorded, images = _Shifted(module, x), [torch.zeros_like(x)]
        linearization = Linearization(recorded)
        with fixed_buffers(module), linearization.recording(images):
            recorded(images)
        theta = {name: parameter.detach().clone() for name, parameter in recorded.named_parameters()}
        direction = {name: tangent if name == "shift" else torch.cos(p) for name, p in theta.items()}
        moving = linearization.tangent(theta, direction)
        torch.testing.assert_close(moving, seen_moving, rtol=1e-8, atol=1e-8)
        buffers = {name: value.double() for name, value in module.named_buffers()}
        module.eval()
        parts = {"output": output, "gradient": gradient, "second": second, "forward": forward, "eval": module(x)}
        parts["moving"] = moving
        sums = dict(zip(("weight", "bias"), of_parameters, strict=True))
        seen.append({name: value.detach() for name, value in (parts | sums | buffers).items()})
    return seen


def kept_for_backward(rank: int) -> list[bool]:
    """Of each large tensor that the backward pass waits for: whether it is the input, as it is."""
    norm = SynchronizedBatchNorm(3)
    given = torch.randn(8, 3, 5, 4, dtype=torch.bfloat16, requires_grad=True)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        norm(given)
    return [tensor.data_ptr() == given.data_ptr() for tensor in kept if tensor.numel() >= given.numel()]


def everything(rank: int) -> dict[Any, Any]:
    return {"kept": kept_for_backward(rank)} | {momentum: passes(rank, momentum=momentum) for momentum in (0.1, None)}


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_equal_one_process_with_pytorchs_own(ranks: int, tmp_path: Path) -> None:
    several = run_ranks(ranks, tmp_path, everything)
    assert several[0]["kept"]
    assert all(several[0]["kept"])
    for momentum in (0.1, None):
        for place, expected in enumerate(passes(0, synchronized=False, momentum=momentum)):
            for name, value in expected.items():
                parts = [each[momentum][place][name] for each in several]
                if name in ("output", "gradient", "second", "forward", "eval", "moving"):
                    whole = torch.cat(parts)
                elif name in ("weight", "bias"):
                    whole = torch.stack(parts).sum(0)
                else:
                    whole = parts[-1]
                torch.testing.assert_close(whole, value, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")


def test_a_process_alone_has_pytorchs_own() -> None:
    for ours, expected in zip(passes(0), passes(0, synchronized=False), strict=True):
        for name, value in expected.items():
            assert torch.equal(ours[name], value), name


def test_parameters_and_buffers_stay_the_same_tensors() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.BatchNorm2d(4, eps=1e-3), nn.ReLU())).eval()
    before = module.state_dict(keep_vars=True)
    synchronize_batch_norm(module)
    after = module.state_dict(keep_vars=True)
    assert list(after) == list(before)
    assert all(after[name] is value for name, value in before.items())
    norm = module[1][0]
    assert isinstance(norm, SynchronizedBatchNorm)
    assert (norm.eps, norm.training) == (1e-3, False)
