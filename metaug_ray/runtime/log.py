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
    with handled_alone(LOGGER, handler):
        yield


@contextmanager
def handled_alone(logger: logging.Logger, handler: logging.Handler) -> Iterator[None]:
    """Let a handler have what a logger says, from level INFO on, and no logger above it; MLflow gives the root logger a
    handler, by which each line would come once more."""
    level, propagate = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
