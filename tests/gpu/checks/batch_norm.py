"""Batch norm's tangent by the kernels of its backward pass, which only a GPU has, against PyTorch's in float64."""

from collections.abc import Iterator
from itertools import product

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor

from metaug_ray.method.tangents import FusedTangents
from tests.gpu.setting import Row, Setting, held

BARS = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Greatest errors."""
SHAPES = {
    "channels_last": ((32, 64, 14, 14), torch.channels_last),
    "contiguous": ((32, 64, 14, 14), torch.contiguous_format),
    "of vectors": ((256, 48), torch.contiguous_format),
}


def batch_norm(setting: Setting) -> Iterator[Row]:
    for (name, (shape, layout)), (dtype, bar) in product(SHAPES.items(), BARS.items()):
        errors = []
        for moving in ("x", "x gamma", "x beta", "x gamma beta", "x without gamma", "x beta without gamma"):
            exact = _tangent(setting.device, shape, layout, dtype, moving.split(), exact=True)
            ours = _tangent(setting.device, shape, layout, dtype, moving.split(), exact=False)
            errors.append(float((ours.double() - exact).norm() / exact.norm()))
        error = max(errors)
        said = f"error {error:.1e} (bar {bar:.0e})"
        yield held(f"{name}, {str(dtype).removeprefix('torch.')}", said, error <= bar, error=error)


def _tangent(
    device: torch.device,
    shape: tuple[int, ...],
    layout: torch.memory_format,
    dtype: torch.dtype,
    moving: list[str],
    *,
    exact: bool,
) -> Tensor:
    """Of batch norm in training mode. Inputs are rounded to `dtype` in either case; some weights are 0, some tiny."""
    random = torch.Generator().manual_seed(0)
    weights = torch.float64 if exact else torch.promote_types(dtype, torch.float32)

    def drawn(*size: int, mean: float = 0.0) -> Tensor:
        made = mean + torch.randn(*size, generator=random, dtype=torch.float64)
        made = made.to(dtype if len(size) > 1 else weights)
        made = made.to(device, torch.float64 if exact else made.dtype)
        return made.contiguous(memory_format=layout) if len(size) == 4 else made

    x, xdot = drawn(*shape, mean=1.0), drawn(*shape)
    gamma, beta, gamma_dot, beta_dot = (drawn(shape[1]) for _ in range(4))
    gamma[0], gamma[1] = 0.0, 1e-12
    tangents = {"x": xdot, "gamma": gamma_dot, "beta": beta_dot}
    with torch.no_grad(), forward_ad.dual_level():
        duals = {
            name: forward_ad.make_dual(value, tangents[name]) if name in moving else value
            for name, value in {"x": x, "gamma": gamma, "beta": beta}.items()
        }
        weight = None if "without" in moving else duals["gamma"]
        arguments = duals["x"], None, None, weight, duals["beta"], True
        if exact:
            made = F.batch_norm(*arguments)
        else:
            with FusedTangents():
                made = F.batch_norm(*arguments)
        tangent = forward_ad.unpack_dual(made).tangent
    assert tangent is not None
    return tangent
