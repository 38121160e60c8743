"""Doing as a user who may not read."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become a user without the permission")


def as_nobody(folder: Path, call: Callable[[], object]) -> str:
    """What the call returns or raises, as text, when the user is nobody, who may enter `folder`."""
    for parent in [folder, *folder.parents[:-2]]:
        parent.chmod(0o755)
    # Forked, so that nothing needs to be imported by a user who may not read this checkout.
    context = multiprocessing.get_context("fork")
    answer: multiprocessing.SimpleQueue[str] = context.SimpleQueue()
    process = context.Process(target=_call, args=(call, answer))
    process.start()
    process.join(30)
    return answer.get()


def _call(call: Callable[[], object], answer: "multiprocessing.SimpleQueue[str]") -> None:
    os.setuid(65534)
    try:
        answer.put(str(call()))
    except Exception as error:
        answer.put(f"{type(error).__name__}: {error}")
