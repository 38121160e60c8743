"""Forward-mode differentiation of batch norm in three passes, where PyTorch's own makes some eighteen.

With x^ = (x - mu) r, the tangent of y = gamma x^ + beta is, in each channel,

    gamma r (xdot - mean(xdot) - x^ mean(x^ xdot)) + gammadot x^ + betadot:

two sums, which the backward pass makes too, if xdot is taken for its gradient, and then an affine map of x and xdot.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, Final

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from metaug_ray.method.batch_norm import by_channel


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
    encoder: nn.Module,
    images: Sequence[Tensor],
    theta: Mapping[str, Tensor],
    direction: Mapping[str, Tensor],
    *,
    fused: bool = True,
) -> Tensor:
    """The tangent J_theta e . direction of an encoder's features e, [V, B, D], in one pass, without a graph.

    Args:
        encoder: called with the images; eager, also where it is compiled.
        images: one tensor [B, C_v, H, W] per view.
        theta: its trained parameters, by name.
        direction: tangents of these.
        fused: batch norm's by :class:`FusedTangents`, or by PyTorch itself.
    """
    norms = FusedTangents() if fused else nullcontext()
    with torch.no_grad(), forward_ad.dual_level(), norms, torch.compiler.set_stance("force_eager"):
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
    made = batch_norm_tangent(x, gamma, (tangent, gamma_dot, beta_dot), mean, reciprocal, training=training)
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
) -> Tensor | None:
    """The tangent of batch norm's output; None where nothing moves.

    Args:
        inputs: x, [B, C, ...].
        gamma: weight, [C].
        tangents: of x, gamma and beta.
        mean: of each channel, [C].
        reciprocal: r of each channel's deviation, [C].
        training: whether these are x's own, and move with it.
    """
    of_inputs, of_gamma, of_beta = tangents
    if all(tangent is None for tangent in tangents):
        return None
    if of_inputs is not None:
        of_inputs = of_inputs.to(inputs.dtype)
        if training and inputs.is_cuda:
            return _cuda_tangent(inputs, gamma, (of_inputs, of_gamma, of_beta), mean, reciprocal)
    slope = torch.zeros_like(mean) if of_gamma is None else of_gamma * reciprocal
    shift = torch.zeros_like(mean) if of_beta is None else of_beta
    scale = reciprocal if gamma is None else gamma * reciprocal
    if of_inputs is not None and training:
        # Of epsilon it takes no notice: it is in r.
        _, products, sums = torch.ops.aten.native_batch_norm_backward(
            of_inputs, inputs, None, None, None, mean, reciprocal, True, 0.0, [False, True, True]
        )
        count = inputs.numel() // inputs.shape[1]
        slope = slope - scale * reciprocal * products / count
        shift = shift - scale * sums / count
    # In the precision of the statistics: where a channel's mean is large, both terms are, and cancel.
    shift = shift - mean * slope
    tangent = torch.addcmul(by_channel(shift, inputs), inputs, by_channel(slope, inputs))
    if of_inputs is not None:
        tangent.addcmul_(of_inputs, by_channel(scale, inputs))
    return tangent.to(inputs.dtype)


_LEAST: Final = 1e-20
"""Stands for a weight of 0, which would be divided by; times what it divides, it is lost in rounding."""


def _cuda_tangent(
    inputs: Tensor,
    gamma: Tensor | None,
    tangents: tuple[Tensor, Tensor | None, Tensor | None],
    mean: Tensor,
    reciprocal: Tensor,
) -> Tensor:
    """The same by the two kernels of the backward pass, of which the second makes

        gamma r (xdot - sums / n - (x - mu) r^2 products / n),

    with gammadot and betadot in the sums: one pass over x, with no copies of it in higher precision."""
    of_inputs, of_gamma, of_beta = tangents
    sums, products, *_ = torch.batch_norm_backward_reduce(
        of_inputs, inputs, mean, reciprocal, gamma, True, False, False
    )
    count = inputs.numel() // inputs.shape[1]
    if gamma is None and of_beta is not None:
        gamma = torch.ones_like(mean)
    if gamma is not None:
        gamma = gamma.masked_fill(gamma.abs() < _LEAST, _LEAST)
        scale = gamma * reciprocal
        if of_beta is not None:
            sums = torch.addcdiv(sums, of_beta, scale, value=-count)
        if of_gamma is not None:
            products = torch.addcdiv(products, of_gamma, scale * reciprocal, value=-count)
    counts = _one_number(count, inputs.device)
    made: Tensor = torch.batch_norm_backward_elemt(of_inputs, inputs, mean, reciprocal, gamma, sums, products, counts)
    return made


@lru_cache(maxsize=64)
def _one_number(number: int, device: torch.device) -> Tensor:
    return torch.full((1,), number, dtype=torch.int32, device=device)


def _unpacked(parameter: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if parameter is None else tuple(forward_ad.unpack_dual(parameter))
