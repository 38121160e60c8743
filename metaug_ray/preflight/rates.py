"""How fast files are written and read, without what the system keeps of them in memory."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

_BLOCK: Final = 1 << 20


@dataclass(frozen=True)
class Rates:
    """Megabytes a second."""

    write: float
    read: float

    def __str__(self) -> str:
        return f"writes {self.write:,.0f} MB/s, reads {self.read:,.0f} MB/s"


def write_noise(file: BinaryIO, size: int) -> float:
    """Write so many bytes that no file system can compress; returns megabytes a second."""
    block = os.urandom(_BLOCK)
    began, left = time.perf_counter(), size
    while left > 0:
        left -= file.write(block[:left])
    file.flush()
    return megabytes_a_second(size, began)


def read_all(file: BinaryIO) -> float:
    """Read to the end; returns megabytes a second."""
    began, size = time.perf_counter(), 0
    while block := file.read(_BLOCK):
        size += len(block)
    return megabytes_a_second(size, began)


def on_disk(file: BinaryIO) -> None:
    """Wait until what was written lies on the disk, and forget it, so that it is read from there."""
    os.fsync(file.fileno())
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def megabytes_a_second(size: int, began: float) -> float:
    """Of so many bytes since a time of `time.perf_counter`."""
    return size / 1e6 / max(time.perf_counter() - began, 1e-9)


@contextmanager
def folder_for_a_while(folder: Path) -> Iterator[Path]:
    """A folder that is made where it is not there, and then removed again with those above it that were not either."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    finally:
        for path in missing:
            try:
                path.rmdir()
            except OSError:  # somebody put something into it
                break
