"""The files of a checkpoint where they lie, opened one by one, so that nobody fetches what he does not need."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow.fs

_BUFFER: Final = 8 * 2**20
"""Bytes that a store is asked for at once: what a rank reads of a file lies side by side."""


class CheckpointFiles:
    """A checkpoint's folder.

    Args:
        folder: its path.
        files: the file system that it lies on; None for this machine's.
    """

    def __init__(self, folder: Path | str, files: Any = None) -> None:
        self.folder = Path(folder)
        self._files = None if isinstance(files, pyarrow.fs.LocalFileSystem) else files

    def __str__(self) -> str:
        return str(self.folder)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Read a file, from any place in it on.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        if self._files is None:
            with (self.folder / name).open("rb") as file:
                yield file
        else:
            with io.BufferedReader(self._files.open_input_file(f"{self.folder}/{name}"), _BUFFER) as file:
                yield file

    def has_inside(self, name: str) -> bool:
        """Whether a name leads into this folder and not out of it, as a link may."""
        return self._files is not None or (self.folder / name).resolve().parent == self.folder.resolve()
