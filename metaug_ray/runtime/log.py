"""The log that a user reads: what the package's loggers say, a line each, with the time."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

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


@contextmanager
def log_moved(streams: Sequence[tuple[TextIO, TextIO]]) -> Iterator[None]:
    """Let handlers of the package's logger and of the root logger write elsewhere.

    Args:
        streams: pairs of the stream that they write to, and the one that takes its place.
    """
    moved: list[tuple[logging.StreamHandler[TextIO], TextIO]] = []
    try:
        for handler in (*LOGGER.handlers, *logging.getLogger().handlers):
            for old, new in streams:
                if isinstance(handler, logging.StreamHandler) and handler.stream is old:
                    handler.setStream(new)
                    moved.append((handler, old))
        yield
    finally:
        for handler, old in moved:
            handler.setStream(old)
