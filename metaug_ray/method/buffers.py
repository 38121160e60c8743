"""Batch-norm statistics: buffers that a forward pass moves and that some passes must leave alone."""

from torch import nn


class SavedBuffers:
    """Copies of the buffers of some modules, made now, to put back later.

    Args:
        modules: whose buffers to copy; None stands for no module.
    """

    def __init__(self, *modules: nn.Module | None) -> None:
        buffers = [buffer for module in modules if module is not None for buffer in module.buffers()]
        self._saved = [(buffer, buffer.clone()) for buffer in buffers]

    def restore(self) -> None:
        """Give every buffer the value that it had."""
        for buffer, value in self._saved:
            buffer.copy_(value)
