"""Functions that numba compiles, once for a machine: the machine code is kept on disk."""

import hashlib
import logging
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from llvmlite import binding  # type: ignore[import-untyped]
from numba import njit
from numba.core.caching import CompileResultCacheImpl, FunctionCache

_log = logging.getLogger(__name__)


def compiled(*, parallel: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile a function at its first call, to run without Python's lock, or take the machine code that was kept.

    It lies beside this package, else in the user's cache, or where NUMBA_CACHE_DIR says, for each kind of CPU, version
    of FFCV and of the source by itself. Where it cannot be written or read, each process compiles anew.

    Args:
        parallel: make use of `numba.prange`.
    """
    options: dict[str, Any] = {"nogil": True, "fastmath": True, "error_model": "numpy", "parallel": parallel}

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        made: Any = njit(**options)(function)
        try:
            made._cache = _Cache(function)  # type: ignore[no-untyped-call]
        except RuntimeError as error:  # there is no folder for it
            _log.debug("%s", error)
        compiled_function: Callable[..., Any] = made
        return compiled_function

    return decorate


class _Files(CompileResultCacheImpl):
    """numba's files of one function, named by all that the machine code depends on besides the function's own file."""

    def get_filename_base(self, fullname: str, abiflags: str) -> str:
        features = binding.get_host_cpu_features().flatten()
        depends = f"{binding.get_host_cpu_name()} {features} {version('ffcv')}".encode()
        depends += Path(__file__).with_name("ffcv_api.py").read_bytes()
        base: str = super().get_filename_base(fullname, abiflags)  # type: ignore[no-untyped-call]
        return f"{base}-{hashlib.sha256(depends).hexdigest()[:12]}"


class _Cache(FunctionCache):
    """numba's, but one that a full disk or a broken file does not end a run."""

    _impl_class = _Files

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)  # type: ignore[no-untyped-call]
        except Exception as error:  # a file that was cut short raises whatever unpickling does
            _log.debug("%s cannot be read (%s)", self.cache_path, error)
            with suppress(Exception):
                self.flush()  # type: ignore[no-untyped-call]
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)  # type: ignore[no-untyped-call]
        except Exception as error:
            _log.debug("%s cannot be written (%s)", self.cache_path, error)
