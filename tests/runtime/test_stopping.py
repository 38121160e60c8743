"""How a run is told to end."""

import signal
import threading

import pytest

from metaug_ray.runtime import signals
from metaug_ray.runtime.stopping import Stopping
from tests.log import Log


def test_sigterm_asks_for_a_checkpoint_first_and_a_second_one_for_the_end(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    stopping = Stopping(grace=60)
    with stopping.by_sigterm():
        signal.raise_signal(signal.SIGTERM)
        assert (stopping.soon.is_set(), stopping.now.is_set()) == (True, False)
        # The same one, by way of the driver's parent.
        signal.raise_signal(signal.SIGTERM)
        assert not stopping.now.is_set()
        monkeypatch.setattr(signals, "_ONCE", 0.0)
        signal.raise_signal(signal.SIGTERM)
        assert stopping.now.is_set()
    assert signal.getsignal(signal.SIGTERM) is before
    assert log.messages == [
        "asked to end: a checkpoint is written first, for which there are 1 min 00 s (checkpoint.grace_seconds)"
    ]


def test_a_checkpoint_that_takes_too_long_is_not_waited_for(log: Log) -> None:
    stopping = Stopping(grace=0.05)
    with stopping.by_sigterm():
        signal.raise_signal(signal.SIGTERM)
        assert stopping.now.wait(5)


def test_without_a_grace_nothing_changes() -> None:
    now = threading.Event()
    stopping = Stopping(now=now)
    before = signal.getsignal(signal.SIGTERM)
    with stopping.by_sigterm():
        assert signal.getsignal(signal.SIGTERM) is before
    stopping.saved(asked_for=True)
    assert not now.is_set()


def test_only_a_checkpoint_that_was_asked_for_ends_the_run(log: Log) -> None:
    stopping = Stopping(grace=60)
    with stopping.by_sigterm():
        signal.raise_signal(signal.SIGTERM)
        stopping.saved(asked_for=False)  # it was on its way when the signal came
        assert not stopping.now.is_set()
        stopping.saved(asked_for=True)
        assert stopping.now.is_set()
