"""A pickle that runs code where it is loaded, to be planted where this package reads what others may have written."""

import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Poison:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._mark),)

    def pickled(self) -> bytes:
        return pickle.dumps(self)


@contextmanager
def refused(mark: Path, kind: type[BaseException], *words: str) -> Iterator[None]:
    """Expect an error of one line that has these words, and that no planted code has run."""
    with pytest.raises(kind) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message, message
    for word in words:
        assert word in message, message
    assert not mark.exists()
