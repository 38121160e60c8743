"""Folders that files are written to."""

import tempfile
from pathlib import Path


def make_writable(folder: Path) -> None:
    """Makes the folder where it is not there, and raises `OSError` unless a file can be written in it.

    Asked before a lock is taken in it: filelock waits for ever where no file can be made.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
