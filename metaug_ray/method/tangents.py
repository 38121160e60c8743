"""Forward-mode differentiation of batch norm in a few passes, where PyTorch's own makes some eighteen.

The Jacobian of batch norm in its input, per channel gamma r (I - 1 1^T / n - x^ x^T / n) with x^ = (x - mu) r, is
symmetric. So the tangent that an input's tangent makes is what the backward pass would make of it as a gradient, and
one kernel of the backward pass, fused in every precision and memory format, gives it. What tangents of gamma and beta
add is an affine map of the input, channel by channel.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
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


def forward_mode(
    encoder: nn.Module, images: Sequence[Tensor], theta: Mapping[str, Tensor], direction: Mapping[str, Tensor]
) -> Tensor:
    """The tangent J_theta e . direction of an encoder's features e, [V, B, D], in one pass, without a graph.

    Args:
        encoder: called with the images; eager, also where it is compiled.
        images: one tensor [B, C_v, H, W] per view.
        theta: its trained parameters, by name.
        direction: tangents of these.
    """
    with torch.no_grad(), forward_ad.dual_level(), FusedTangents(), torch.compiler.set_stance("force_eager"):
        duals = {name: forward_ad.make_dual(theta[name], tangent) for name, tangent in direction.items()}
        edot: Tensor = forward_ad.unpack_dual(functional_call(encoder, duals, (images,)).features).tangent
    return edot


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
    if not training and running_mean is not None and running_var is not None:
        mean, reciprocal = running_mean, (running_var + eps).rsqrt()
    made = batch_norm_tangent(x, gamma, (tangent, gamma_dot, beta_dot), mean, reciprocal, training=training, eps=eps)
    if made is None:
        return y
    dual: Tensor = forward_ad.make_dual(y, made)
    return dual


def batch_norm_tangent(
    inputs: Tensor,
    gamma: Tensor | None,
    tangents: tuple[Tensor | None, Tensor | None, Tensor | None],
    mean: Tensor,
    reciprocal: Tensor,
    *,
    training: bool,
    eps: float,
) -> Tensor | None:
    """The tangent of batch norm's output; None where nothing moves.

    Args:
        inputs: x, [B, C, ...].
        gamma: weight, [C].
        tangents: of x, gamma and beta.
        mean: of each channel, [C].
        reciprocal: r of each channel's deviation, [C].
        training: whether these are x's own, and move with it.
        eps: that is in r.
    """
    of_inputs, of_gamma, of_beta = tangents
    shape = (1, -1, *(1,) * (inputs.ndim - 2))
    parts = []
    if of_inputs is not None and training:
        (made, *_) = torch.ops.aten.native_batch_norm_backward(
            of_inputs.to(inputs.dtype), inputs, gamma, None, None, mean, reciprocal, True, eps, [True, False, False]
        )
        parts.append(made)
    elif of_inputs is not None:
        scale = reciprocal if gamma is None else gamma * reciprocal
        parts.append((of_inputs * scale.view(shape)).to(inputs.dtype))
    if of_gamma is not None or of_beta is not None:
        scale = torch.zeros_like(mean) if of_gamma is None else of_gamma * reciprocal
        shift = -mean * scale if of_beta is None else of_beta - mean * scale
        # In the precision of the statistics: where a channel's mean is large, both terms are, and cancel.
        parts.append(torch.addcmul(shift.view(shape), inputs, scale.view(shape)))
    if not parts:
        return None
    tangent: Tensor = parts[0] if len(parts) == 1 else parts[0].add_(parts[1])
    return tangent.to(inputs.dtype)


def _unpacked(parameter: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if parameter is None else tuple(forward_ad.unpack_dual(parameter))
