import pytest

from metaug_ray.preflight.clock import check_clock, skew
from metaug_ray.preflight.findings import Failed
from tests.preflight.nodes import FIRST, HOME, the_fault


def test_the_sample_that_was_answered_fastest_counts() -> None:
    slow, fast = (100.0, 107.0, 110.0), (200.0, 203.1, 200.2)
    assert skew([slow, fast]) == pytest.approx((3.0, 0.1))


def test_a_clock_that_is_behind() -> None:
    samples = {HOME: [(100.0, 100.0, 100.002)], FIRST: [(100.0, 95.0, 100.2)]}
    found = the_fault(check_clock(samples, {}, 2.0))
    assert (found.node, found.measured) == (
        FIRST,
        "-5.100 s to the driver's, within 0.100 s; at most 2 s are allowed",
    )
    assert "NTP" in found.advice


def test_what_a_slow_network_cannot_tell_is_no_fault() -> None:
    assert [found.verdict for found in check_clock({FIRST: [(100.0, 104.0, 104.0)]}, {}, 2.0)] == ["ok"]


def test_a_node_that_does_not_tell_the_time() -> None:
    found = the_fault(check_clock({}, {FIRST: Failed("no answer within 1 s", silent=True)}, 2.0))
    assert "ray status" in found.advice
