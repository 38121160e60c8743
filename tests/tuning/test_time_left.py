import pytest

from metaug_ray.tuning.time_left import seconds_left
from tests.tuning.made_up import trial


def test_counts_what_runs_and_what_is_to_come() -> None:
    ended = [trial(hours=1.5), trial(state="stopped", hours=0.5), trial(state="failed", hours=9.0)]
    running = [trial(state="running", hours=0.25), trial(state="running", hours=0.75)]
    # A run takes an hour; of these two 45 and 15 minutes are left.
    assert seconds_left(ended + running, 0, 2) == pytest.approx(2700)
    assert seconds_left(ended + running, 1, 2) == pytest.approx(4500)
    assert seconds_left(ended + running, 2, 2) == pytest.approx(6300)
    # A third place is free at once.
    assert seconds_left(ended + running, 1, 3) == pytest.approx(3600)
    assert seconds_left(ended, 7, 3) == pytest.approx(3 * 3600)
    assert seconds_left(ended, 0, 3) == 0


def test_runs_that_take_longer_than_others_are_nearly_through() -> None:
    assert seconds_left([trial(hours=1.0), trial(state="running", hours=3.0)], 0, 1) == 0


def test_is_not_known_before_a_run_has_ended() -> None:
    assert seconds_left([trial(state="running"), trial(state="failed")], 3, 2) is None
