"""Forward-mode differentiation of batch norm in a few passes, where PyTorch's own makes some eighteen.

The Jacobian of batch norm in its input, per channel gamma r (I - 1 1^T / n - x^ x^T / n) with x^ = (x - mu) r, is
symmetric. So the tangent that an input's tangent makes is what the backward pass would make of it as a gradient, and
one kernel of the backward pass, fused in every precision and memory format, gives it. What tangents of gamma and beta
add is an affine map of the input, channel by channel.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class FusedTangents(TorchFunctionMode):
    """A context in which `F.batch_norm` of dual numbers makes its tangent as described above.

    It is to be entered within a `forward_ad.dual_level`, under `torch.no_grad`: no graph is kept of what it makes.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    inputs: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` of inputs [B, C, ...] that may be dual numbers, as may weight and bias [C]."""
    x, tangent = forward_ad.unpack_dual(inputs)
    (gamma, gamma_dot), (beta, beta_dot) = (_unpacked(parameter) for parameter in (weight, bias))
    y, mean, reciprocal = torch.native_batch_norm(x, gamma, beta, running_mean, running_var, training, momentum, eps)
    parts = []
    if tangent is not None:
        parts.append(
            torch.ops.aten.native_batch_norm_backward(
                tangent, x, gamma, running_mean, running_var, mean, reciprocal, training, eps, [True, False, False]
            )[0]
        )
    if gamma_dot is not None or beta_dot is not None:
        if not training and running_mean is not None and running_var is not None:
            mean, reciprocal = running_mean, (running_var + eps).rsqrt()
        scale = torch.zeros_like(mean) if gamma_dot is None else gamma_dot * reciprocal
        shift = -mean * scale if beta_dot is None else beta_dot - mean * scale
        shape = (1, -1, *(1,) * (x.ndim - 2))
        # In the precision of the statistics: where a channel's mean is large, both terms are, and cancel.
        parts.append(torch.addcmul(shift.view(shape), x, scale.view(shape)))
    if not parts:
        return y
    made = parts[0] if len(parts) == 1 else parts[0].add_(parts[1])
    dual: Tensor = forward_ad.make_dual(y, made.to(y.dtype))
    return dual


def _unpacked(parameter: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if parameter is None else tuple(forward_ad.unpack_dual(parameter))
