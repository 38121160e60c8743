"""Collectives that are differentiated: backwards as often as wanted, and forwards.

A loss of one rank may depend on what other ranks computed. These functions take its gradient back to them: a backward
pass through them gives each rank the gradient of the *sum* of all ranks' losses, and a mean over the ranks afterwards,
as DDP takes one, that of the mean over the global batch. Every rank must run the same passes in the same order.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from metaug_ray.method import distributed


def gather(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """The ranks' tensors, which are of one shape, [W, ...] by rank."""
    if distributed.world_size(group) == 1:
        return tensor.unsqueeze(0)
    return _apply(_Gather, tensor, group)


def gather_batch(features: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """Features of the global batch, [V, W B, D] in its order, from those of this rank's part, [V, B, D]."""
    return gather(features, group).transpose(0, 1).flatten(1, 2)


def _apply(function: type[Function], tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    applied: Tensor = function.apply(tensor, group)
    return applied


class _Sum(Function):
    """The sum over the ranks. It is its own adjoint."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        return distributed.all_reduce(tensor.clone(memory_format=torch.contiguous_format), dist.ReduceOp.SUM, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _apply(_Sum, gradients[0], ctx.group), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return _apply(_Sum, tangents[0], ctx.group)


class _Gather(Function):
    """The tensors of all ranks, by rank."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup | None) -> Tensor:
        ctx.group = group
        gathered = tensor.new_empty(distributed.world_size(group), *tensor.shape)
        dist.all_gather_single(gathered, tensor.contiguous().unsqueeze(0), group)
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _apply(_Sum, gradients[0], ctx.group)[distributed.rank(ctx.group)], None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return _apply(_Gather, tangents[0], ctx.group)
