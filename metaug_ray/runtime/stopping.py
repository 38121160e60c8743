"""How a run is told to end by whoever holds its driver: at once, or once a checkpoint is written."""

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from metaug_ray.runtime.signals import Repeats
from metaug_ray.runtime.words import duration

_log = logging.getLogger(__name__)


class Stopping:
    """Two events, of which the second follows the first in time.

    Args:
        grace: seconds that a checkpoint may take once SIGTERM came; 0: it ends the run at once.
        now: ends it at once; a new one without.

    Attributes:
        soon: the workers are to write a checkpoint.
        now: the run is to end.
        saved_at: when the last checkpoint was written, by `time.monotonic`.
    """

    def __init__(self, grace: float = 0.0, now: threading.Event | None = None) -> None:
        self.grace = grace
        self.soon, self.now = threading.Event(), now or threading.Event()
        self.saved_at = 0.0
        self._repeats = Repeats()

    @contextmanager
    def by_sigterm(self) -> Iterator[None]:
        """SIGTERM asks for a checkpoint first, and a second one for the end. Nothing changes without a grace."""
        if not self.grace or threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGTERM, self._take)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def saved(self, *, asked_for: bool) -> None:
        """A checkpoint was written, of the workers' own accord or because they were asked for one."""
        self.saved_at = time.monotonic()
        if asked_for and self.soon.is_set():
            self.now.set()

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._repeats.again():
            return
        if self.soon.is_set():
            self.now.set()
            return
        _log.warning(
            "asked to end: a checkpoint is written first, for which there are %s (checkpoint.grace_seconds)",
            duration(self.grace),
        )
        self.soon.set()
        late = threading.Timer(self.grace, self.now.set)
        late.daemon = True
        late.start()
