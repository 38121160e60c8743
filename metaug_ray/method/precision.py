"""Mixed precision, the same way everywhere."""

import torch


def autocast(device: torch.device | str, dtype: torch.dtype | None) -> torch.autocast:
    """A context in which matrix products and convolutions run in `dtype`, whatever context is open around it.

    Args:
        device: that the tensors are on.
        dtype: torch.bfloat16 for mixed precision, None for the tensors' own precision.
    """
    return torch.autocast(torch.device(device).type, dtype, enabled=dtype is not None)
