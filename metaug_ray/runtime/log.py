"""The log that a user reads: what the package's loggers say, a line each, with the time."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("metaug_ray")
"""Parent of the loggers of all modules."""


@contextmanager
def shown_log() -> Iterator[None]:
    """Print what the package logs, from level INFO on, to standard output for as long as a command runs."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    level, propagate = LOGGER.level, LOGGER.propagate
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    # MLflow gives the root logger a handler, by which each line would come once more.
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)
        LOGGER.propagate = propagate
