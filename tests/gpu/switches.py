"""PyTorch's global switches, such as `torch.backends.cudnn.benchmark`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def switched(owner: Any, **values: bool) -> Iterator[None]:
    """Set attributes of `owner`, and put back in the end what they were."""
    before = {name: getattr(owner, name) for name in values}
    try:
        for name, value in values.items():
            setattr(owner, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
