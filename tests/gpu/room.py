"""The GPU's memory: giving it back, and going on where there was too little."""

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")

_TOO_LITTLE = ("out of memory", "ALLOC_FAILED", "unable to find an engine")
"""What PyTorch, cuBLAS and cuDNN say, the last where no algorithm's workspace fits."""


def free_memory() -> None:
    """Give back all memory that nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def unless_out_of_memory(call: Callable[[], T]) -> T | None:
    """What a call returns, or None where the GPU's memory was too little for it, which is then free again."""
    try:
        return call()
    except RuntimeError as error:
        if not any(words in str(error) for words in _TOO_LITTLE):
            raise
    # Only here has the traceback, whose frames hold the tensors, gone.
    free_memory()
    return None
