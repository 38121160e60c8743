"""Batch-norm statistics: buffers that a forward pass moves and that some passes must leave alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SavedBuffers:
    """Copies of the buffers of some modules, in memory that is kept from one :meth:`save` to the next.

    Args:
        modules: whose buffers to copy; None stands for no module.
    """

    def __init__(self, *modules: nn.Module | None) -> None:
        self._modules = [module for module in modules if module is not None]
        self._buffers: list[Tensor] = []
        self._copies: list[Tensor] = []

    def save(self) -> None:
        """Copy what the buffers hold now."""
        self._buffers = [buffer for module in self._modules for buffer in module.buffers()]
        if [_kind(copy) for copy in self._copies] != [_kind(buffer) for buffer in self._buffers]:
            self._copies = [torch.empty_like(buffer) for buffer in self._buffers]
        _copy(self._copies, self._buffers)

    def restore(self) -> None:
        """Give every buffer the value that was saved."""
        _copy(self._buffers, self._copies)


@contextmanager
def fixed_buffers(*modules: nn.Module | None) -> Iterator[None]:
    """A context in which forward passes of some modules move none of their buffers: batch norm takes its minibatch's
    statistics, as in training, and its running ones stay as they are, without a copy of them.

    Args:
        modules: None stands for no module.
    """
    inside = [each for module in modules if module is not None for each in module.modules()]
    norms = [each for each in inside if isinstance(each, _BatchNorm) and each.track_running_stats and each.training]
    others = [each for each in inside if not isinstance(each, _BatchNorm)]
    buffers = [buffer for each in others for buffer in each.buffers(recurse=False)]
    values = [buffer.clone() for buffer in buffers]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        _copy(buffers, values)


def _kind(tensor: Tensor) -> tuple[torch.Size, torch.dtype, torch.device]:
    return tensor.shape, tensor.dtype, tensor.device


def _copy(into: list[Tensor], values: list[Tensor]) -> None:
    """One operation for all tensors of a type."""
    for dtype in {tensor.dtype for tensor in into}:
        pairs = [(target, value) for target, value in zip(into, values, strict=True) if target.dtype == dtype]
        torch._foreach_copy_([target for target, _ in pairs], [value for _, value in pairs])
