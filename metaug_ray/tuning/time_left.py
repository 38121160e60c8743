"""When a sweep will be through."""

import heapq
import math
from collections.abc import Sequence

from metaug_ray.tuning.points import TrialRun


def seconds_left(runs: Sequence[TrialRun], to_come: int, concurrency: int) -> float | None:
    """Estimate how long a sweep still takes.

    Each run is taken to last as long as those that have ended did on average, whether they finished or were stopped, as
    the same share of the others will be; what runs already needs the rest of that. The runs to come begin, one by one,
    where a place is free.

    Args:
        runs: that have begun.
        to_come: number of those that have not.
        concurrency: runs at a time.

    Returns:
        Seconds; None where no run has ended yet, of which one could tell.
    """
    ended = [run.hours for run in runs if run.state in ("finished", "stopped") and run.hours > 0]
    if not ended:
        return None
    mean = math.fsum(ended) / len(ended)
    busy = [max(0.0, mean - run.hours) for run in runs if run.state == "running"]
    places = busy + [0.0] * (concurrency - len(busy))
    heapq.heapify(places)
    for _ in range(to_come):
        heapq.heapreplace(places, places[0] + mean)
    return 3600 * max(places, default=0.0)
