import math

import pytest
from scipy import stats

from metaug_ray.evaluation.intervals import confidence_interval


def test_is_students_interval() -> None:
    values = [0.61, 0.64, 0.60, 0.66]
    interval = confidence_interval(values)
    low, high = stats.t.interval(0.95, 3, loc=sum(values) / 4, scale=stats.sem(values))
    assert interval.mean - interval.half_width == pytest.approx(low)
    assert interval.mean + interval.half_width == pytest.approx(high)


def test_one_value_has_none() -> None:
    assert confidence_interval([0.5]).mean == 0.5
    assert math.isnan(confidence_interval([0.5]).half_width)
    with pytest.raises(ValueError, match="at least one"):
        confidence_interval([])
