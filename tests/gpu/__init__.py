"""Checks of method, step and memory on a GPU, with PyTorch and torchvision alone: `python -m tests.gpu`."""

import time
from typing import Final

BEGAN: Final = time.monotonic()
"""When the package was imported: before PyTorch, whose import is a part of the time that there is."""
