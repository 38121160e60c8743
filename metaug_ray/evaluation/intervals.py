"""What several seeds say together."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import t


class Interval(NamedTuple):
    """A mean and the half width of its 95 % confidence interval; NaN for a single value."""

    mean: float
    half_width: float

    def __str__(self) -> str:
        return f"{self.mean:.3g}" if math.isnan(self.half_width) else f"{self.mean:.3g} ± {self.half_width:.2g}"


def confidence_interval(values: Sequence[float]) -> Interval:
    """Student's interval for the mean of independent values.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("a mean needs at least one value")
    count, mean = len(values), math.fsum(values) / len(values)
    if count == 1:
        return Interval(mean, math.nan)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    return Interval(mean, float(t.ppf(0.975, count - 1)) * deviation / math.sqrt(count))
