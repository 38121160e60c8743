"""Signals that come twice and mean one thing: `ray job stop` tells a command and its parent, which passes it on."""

import time
from typing import Final

_ONCE: Final = 1.0
"""Seconds within which further signals are the same one."""


class Repeats:
    """Tells which signals are the one before once more."""

    def __init__(self) -> None:
        self._came = float("-inf")

    def again(self) -> bool:
        """Whether the signal that came now is the one before."""
        now = time.monotonic()
        if now - self._came < _ONCE:
            return True
        self._came = now
        return False

    def forget(self) -> None:
        """The next one is new."""
        self._came = float("-inf")
