"""Batch norm over the images of all ranks.

PyTorch's own `SyncBatchNorm` refuses CPUs, and has neither a forward mode nor a second derivative, which the meta
gradient takes. This one is made of differentiable operations and one gathering of two numbers per channel.
"""

from typing import Any, NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import handle_torch_function, has_torch_function_unary

from metaug_ray.method import distributed
from metaug_ray.method.collectives import gather


class SynchronizedBatchNorm(_BatchNorm):
    """Batch norm whose statistics are those of the global batch: `nn.BatchNorm1d`, `2d` or `3d` over all ranks.

    Parameters, buffers and arguments are theirs. In evaluation mode, and for a process alone, it is theirs.

    Args:
        features: C, channels.
        eps, momentum, affine, track_running_stats: as for `nn.BatchNorm2d`.
        group: ranks that share a minibatch, with parts of one size; None for the default group, or for this process
            alone where there is none.

    Shape: [B, C, ...] to the same.
    """

    def __init__(
        self,
        features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        super().__init__(features, eps, momentum, affine, track_running_stats)
        self.group = group

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (PyTorch's name)
        if input.ndim < 2:
            raise ValueError(f"batch norm takes inputs [B, C, ...], got {list(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 (PyTorch's name)
        ranks = distributed.world_size(self.group)
        if not self.training or ranks == 1:
            return super().forward(input)
        self._check_input_dim(input)
        return synchronized_batch_norm(input, self.weight, self.bias, self).output

    def normalize(self, input: Tensor) -> "Normalized":  # noqa: A002 (PyTorch's name)
        """The output of training mode on several ranks, and by what statistics it was made. A collective call."""
        ranks = distributed.world_size(self.group)
        # Each rank's own mean and variance, and theirs around the mean of all: nothing cancels, as in E[x^2] - E[x]^2.
        means, variances = gather(moments(input), self.group).unbind(1)
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        self._move_statistics(mean, variance, ranks * (input.numel() // input.shape[1]))
        scale = reciprocal = (variance + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        shift = self.bias - mean * scale if self.affine else -mean * scale
        # The input is all that is kept for the backward pass, as it is.
        output = torch.addcmul(by_channel(shift, input), input, by_channel(scale, input)).to(input.dtype)
        return Normalized(output, mean, reciprocal)

    def tangent(
        self,
        inputs: Tensor,
        weight: Tensor | None,
        tangents: tuple[Tensor | None, Tensor | None, Tensor | None],
        mean: Tensor,
        reciprocal: Tensor,
    ) -> Tensor:
        """The tangent of that output, as :func:`~metaug_ray.method.tangents.batch_norm_tangent` has it, with means over
        all ranks in the place of its own. A collective call."""
        of_inputs, of_weight, of_bias = tangents
        normed = (_widened(inputs) - by_channel(mean, inputs)) * by_channel(reciprocal, inputs)
        made = torch.zeros_like(normed)
        if of_inputs is not None:
            others, moved = _others(inputs), _widened(of_inputs)
            means = torch.stack([moved.mean(others), (normed * moved).mean(others)])
            distributed.average([means], self.group)
            scale = reciprocal if weight is None else reciprocal * weight
            centered = moved - by_channel(means[0], inputs) - normed * by_channel(means[1], inputs)
            made = centered * by_channel(scale, inputs)
        if of_weight is not None:
            made = made + normed * by_channel(of_weight, inputs)
        if of_bias is not None:
            made = made + by_channel(of_bias, inputs)
        return made.to(inputs.dtype)

    def _move_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        if not self.track_running_stats:
            return
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            unbiased = variance * (count / (count - 1))
            for running, value in ((self.running_mean, mean), (self.running_var, unbiased)):
                running.lerp_(forward_ad.unpack_dual(value).primal.detach().to(running.dtype), share)


class Normalized(NamedTuple):
    """What batch norm makes, and of what."""

    output: Tensor
    mean: Tensor
    """Of each channel, [C]."""
    reciprocal: Tensor
    """Of the deviation of each channel, [C]."""


def synchronized_batch_norm(
    inputs: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    norm: SynchronizedBatchNorm,
) -> Normalized:
    """:meth:`SynchronizedBatchNorm.normalize`, as one function to modes that look at PyTorch's functions.

    Args:
        inputs: [B, C, ...].
        weight, bias: those of `norm`.
        norm: whose output is made.
    """
    if has_torch_function_unary(inputs):
        made: Normalized = handle_torch_function(synchronized_batch_norm, (inputs,), inputs, weight, bias, norm)
        return made
    return norm.normalize(inputs)


class _Moments(Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        made = torch.stack(torch.var_mean(_widened(inputs), _others(inputs), correction=0)[::-1])
        # An output that is saved takes part in a second derivative; what else is made here would not.
        ctx.save_for_backward(inputs, made)
        ctx.save_for_forward(inputs, made)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        inputs, made = ctx.saved_tensors
        by_mean, by_variance = (gradients[0] / (inputs.numel() // inputs.shape[1])).unbind()
        of_all = by_channel(by_mean, inputs) + 2 * by_channel(by_variance, inputs) * _centered(inputs, made)
        return of_all.to(inputs.dtype)

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        inputs, made = ctx.saved_tensors
        tangent = _widened(tangents[0])
        moved = tangent.mean(_others(inputs)), 2 * (_centered(inputs, made) * tangent).mean(_others(inputs))
        return torch.stack(moved)


def moments(inputs: Tensor) -> Tensor:
    """Mean and variance of each channel, float32 at least, differentiable as often as wanted; the inputs are all that
    is kept.

    Shape: [B, C, ...] to [2, C].
    """
    made: Tensor = _Moments.apply(inputs)  # type: ignore[no-untyped-call]
    return made


def _widened(inputs: Tensor) -> Tensor:
    return inputs.to(torch.promote_types(inputs.dtype, torch.float32))


def _others(inputs: Tensor) -> list[int]:
    return [dimension for dimension in range(inputs.ndim) if dimension != 1]


def by_channel(values: Tensor, inputs: Tensor) -> Tensor:
    """Values [C] that broadcast against inputs [B, C, ...]."""
    return values.view(1, -1, *(1,) * (inputs.ndim - 2))


def _centered(inputs: Tensor, made: Tensor) -> Tensor:
    return _widened(inputs) - by_channel(made[0], inputs)


def synchronize_batch_norm(module: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Let every batch norm inside `module` see the images of all ranks. Parameters and buffers stay the same tensors.

    Args:
        module: changed in place; no batch norm itself.
        group: as for :class:`SynchronizedBatchNorm`.
    """
    for name, child in module.named_children():
        if not isinstance(child, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            synchronize_batch_norm(child, group)
            continue
        tracks = child.track_running_stats
        new = SynchronizedBatchNorm(
            child.num_features, child.eps, child.momentum, child.affine, tracks, group=group
        ).train(child.training)
        if child.affine:
            new.weight, new.bias = child.weight, child.bias
        if tracks:
            new.running_mean, new.running_var = child.running_mean, child.running_var
            new.num_batches_tracked = child.num_batches_tracked
        setattr(module, name, new)
