"""Checksums of files that are too large to hold."""

import hashlib
from collections.abc import Callable
from typing import BinaryIO

_BLOCK = 8 << 20


def sha256_of_stream(source: BinaryIO, progress: Callable[[int], object], copy: BinaryIO | None = None) -> str:
    """SHA-256 of what is left to read; `progress` is told of the bytes as they are read, `copy` gets them."""
    digest = hashlib.sha256()
    while block := source.read(_BLOCK):
        digest.update(block)
        if copy is not None:
            copy.write(block)
        progress(len(block))
    return digest.hexdigest()
