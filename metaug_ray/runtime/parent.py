"""A process that watches over the one that does the work, and begins it again where its cluster was lost.

Ray ends a process whose cluster is gone, with words of its own and without a chance to say more. The parent never loads
Ray, so it outlives that, and a driver that the machine's memory ran out under.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from metaug_ray.errors import NOT_BEGUN, TEMPORARY
from metaug_ray.runtime.address import answers
from metaug_ray.runtime.words import counted, duration

_log = logging.getLogger(__name__)

_WATCHED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_PAUSE: Final = 5.0
"""Seconds before a new beginning, in which what the lost process left behind ends."""
_LONGEST_PAUSE: Final = 300.0
"""To which it doubles each time that the work was lost within a minute."""
_SOON: Final = 60.0
_PATIENCE: Final = 24 * 3600.0
"""Seconds that a cluster may take to answer again."""
_TOLD_EVERY: Final = 600.0
_DEATH_SIGNAL: Final = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""


@dataclass(frozen=True)
class Restarts:
    """Whether and how a lost process begins again.

    Attributes:
        most: times that it does.
        address: host:port of the cluster that has to answer before; None where the work starts one itself.
        lost: is told, in a process of its own, that the work was lost, whether it begins again or not.
    """

    most: int
    address: str | None
    lost: Callable[[], None]


def watched(work: Callable[[int], int], restarts: Restarts) -> int:
    """Do the work in a child of this process, and go on waiting for it here.

    The child returns from this function as if there was no parent, and dies with it. SIGTERM, SIGINT and SIGHUP are
    passed on to it. It has a process group of its own: whoever tells a whole group to end, as a terminal and `timeout`
    do, would end Ray's processes before it, which are in its group. Where this process has threads, as a notebook's
    has, or Ray, it does the work itself.

    Args:
        work: gets how often it was begun before, and returns its exit status: `TEMPORARY` where beginning again may
            help; `NOT_BEGUN` where what it needs is not there yet, which does not count as a beginning.
        restarts: what to do where it is lost.

    Returns:
        The work's exit status; `TEMPORARY` where it was lost for good; 130 where it was lost after a signal to end, or
        such a signal came between two beginnings.
    """
    if threading.active_count() > 1 or "ray" in sys.modules or not hasattr(os, "fork"):
        return work(0)
    # Whoever ignores its children's ends, as some launchers do, hears of none.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pause, begun, missing_since = _PAUSE, 0, None
    with _blocked():
        while True:
            began = time.monotonic()
            child = _fork()
            if child is None:
                return work(begun)
            ended, told = child.wait()
            pause = min(2 * pause, _LONGEST_PAUSE) if begun and time.monotonic() - began < _SOON else _PAUSE
            if isinstance(ended, str):
                _in_child(restarts.lost)
                given_up = _USED_UP.format(restarts.most) if restarts.most else _ADVICE
                again = "it was told to end" if told else "it begins again" if begun < restarts.most else given_up
                _log.warning("%s; %s", ended, again)
            elif ended not in (TEMPORARY, NOT_BEGUN):
                return ended
            if told:
                return 130
            if ended == NOT_BEGUN:
                missing_since = missing_since or began
                if time.monotonic() - missing_since > _PATIENCE:
                    return TEMPORARY
            else:
                missing_since = None
                begun += 1
                if begun > restarts.most:
                    return TEMPORARY
            if not _wait(restarts, pause, restarts.most - begun + 1):
                return 130


_ADVICE: Final = (
    "the same command goes on from the last checkpoint, and compute.max_driver_restarts lets it do so by itself"
)


_USED_UP: Final = (
    "it has begun again as often as compute.max_driver_restarts allows, {}; the same command goes on from the last "
    "checkpoint"
)


@dataclass(frozen=True)
class _Child:
    pid: int
    said: int
    """Pipe, from which something comes when the work has come to its end, whatever that was."""

    def wait(self) -> tuple[int | str, bool]:
        """Until it is no more; signals are passed on.

        Returns:
            Its exit status, or, where its work did not come to its end, what ended it; and whether it was told to end.
        """
        told = False
        while True:
            got = signal.sigwaitinfo(_WATCHED)
            if got.si_signo == signal.SIGCHLD:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid == self.pid:
                    return self._ended(os.waitstatus_to_exitcode(status)), told
                continue
            told = True
            with suppress(ProcessLookupError):
                os.kill(self.pid, got.si_signo)

    def _ended(self, code: int) -> int | str:
        came_to_its_end = os.read(self.said, 1)
        os.close(self.said)
        if came_to_its_end:
            return code
        if code >= 0:
            return f"Ray ended the driver (exit status {code}), as it does when its cluster is gone"
        name = signal.Signals(-code).name
        short = ", as Linux does where memory runs out" if name == "SIGKILL" else ""
        return f"the driver was ended by {name}{short}"


def _fork() -> _Child | None:
    """A child; None in the child itself."""
    reading, writing = os.pipe()
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        os.close(writing)
        return _Child(pid, reading)
    os.close(reading)
    os.setpgid(0, 0)
    _die_with(parent)
    _AT_ITS_END.append(writing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
    return None


_AT_ITS_END: Final[list[int]] = []
"""In a child: the pipe that tells its parent that the work came to its end."""


def came_to_its_end() -> None:
    """The child's work is over, well or not, and whatever there is to say was said. Nothing happens elsewhere."""
    while _AT_ITS_END:
        pipe = _AT_ITS_END.pop()
        with suppress(OSError):
            os.write(pipe, b"1")
        os.close(pipe)


def _die_with(parent: int) -> None:
    """Have Linux end this process when its parent ends: what kills a command shall kill its work."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


@contextmanager
def _blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _WATCHED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_child(tell: Callable[[], None]) -> None:
    """Call a function that loads what this process must not."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _WATCHED)
            tell()
            status = 0
        except Exception as error:
            _log.warning("MLflow was not told (%s: %s)", type(error).__name__, str(error).split("\n", 1)[0])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.waitpid(pid, 0)


def _wait(restarts: Restarts, pause: float, left: int) -> bool:
    """Until it may begin again; False where this process was told to end, True after a long time in any case."""
    times = counted(left, "time")
    _log.info("in %s, up to %s (compute.max_driver_restarts)", duration(pause), times)
    if _interrupted(pause):
        return False
    began = told = time.monotonic()
    while restarts.address and not answers(restarts.address) and time.monotonic() - began < _PATIENCE:
        if told == began or time.monotonic() - told > _TOLD_EVERY:
            told = time.monotonic()
            _log.info("waiting for a cluster that answers at %s", restarts.address)
        if _interrupted(_PAUSE):
            return False
    return True


def _interrupted(seconds: float) -> bool:
    """Whether a signal to end came within so many seconds."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        got = signal.sigtimedwait(_WATCHED, left)
        if got is not None and got.si_signo != signal.SIGCHLD:
            return True
    return False
