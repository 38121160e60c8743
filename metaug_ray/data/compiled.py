"""Functions that numba compiles, once for all processes of a machine."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(*, parallel: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function at its first call, without Python's lock; the machine code is kept on disk.

    It lies beside this package, else in the user's cache, or where NUMBA_CACHE_DIR says, and belongs to one version of
    the source and one kind of CPU. Where none of these can be written, each process compiles anew.

    Args:
        parallel: make use of `numba.prange`.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy", "parallel": parallel}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            made: Callable[..., Any] = njit(cache=True, **options)(function)
        except RuntimeError:  # "no locator available": no folder for it
            made = njit(**options)(function)
        return made

    return decorate
