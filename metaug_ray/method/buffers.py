"""Batch-norm statistics: buffers that a forward pass moves and that some passes must leave alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SavedBuffers:
    """Copies of the buffers of some modules, made now, to put back later.

    Args:
        modules: whose buffers to copy; None stands for no module.
    """

    def __init__(self, *modules: nn.Module | None) -> None:
        self._saved = _copies(buffer for module in modules if module is not None for buffer in module.buffers())

    def restore(self) -> None:
        """Give every buffer the value that it had."""
        _put_back(self._saved)


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
    saved = _copies(buffer for each in others for buffer in each.buffers(recurse=False))
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        _put_back(saved)


def _copies(buffers: Iterator[Tensor]) -> list[tuple[Tensor, Tensor]]:
    return [(buffer, buffer.clone()) for buffer in buffers]


def _put_back(saved: list[tuple[Tensor, Tensor]]) -> None:
    for buffer, value in saved:
        buffer.copy_(value)
