"""Waiting for what nodes were asked for, no longer than allowed, and saying meanwhile for whom."""

import logging
import time
from collections.abc import Mapping
from typing import Any, Final

import ray

_NEWS: Final = 10.0
"""Seconds after which it is said who is waited for."""
_NAMED: Final = 8
_log = logging.getLogger(__name__)


def wait_for(what: str, calls: Mapping[Any, str], patience: float) -> list[Any]:
    """Wait until all calls have ended, or time has.

    Args:
        what: is done, as the user is told.
        calls: names of nodes by reference.
        patience: seconds.

    Returns:
        References of those that have not ended.
    """
    waiting, end = list(calls), time.monotonic() + patience
    while waiting and (left := end - time.monotonic()) > 0:
        _, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=min(left, _NEWS))
        if waiting and left > _NEWS:
            names = list(dict.fromkeys(calls[call] for call in waiting))
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            _log.info("%s: waiting for %s%s", what, ", ".join(names[:_NAMED]), more)
    return waiting
