"""How many workers an elastic run has: what Ray Train's policy finds room for, if the batch divides by it.

What this uses of Ray Train is private: an upgrade of Ray may break it.
"""

from collections.abc import Sequence

from ray.data._internal.cluster_autoscaler.base_autoscaling_coordinator import ReservedResources
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy


class AllowedCounts(ElasticScalingPolicy):  # type: ignore[misc]
    """Ray Train's elastic policy, rounded down to a number of workers that is allowed.

    Args:
        scaling_config: of the trainer.
        counts: that are allowed, ascending.
    """

    def __init__(self, scaling_config: ScalingConfig, counts: Sequence[int]) -> None:
        super().__init__(scaling_config)
        self._counts = counts

    def _count_possible_workers(self, reserved_resources: ReservedResources) -> int:
        return most_allowed(self._counts, super()._count_possible_workers(reserved_resources))


def most_allowed(counts: Sequence[int], possible: int) -> int:
    """The greatest of `counts` that is possible; 0 where none is."""
    return max((count for count in counts if count <= possible), default=0)
