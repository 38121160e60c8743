"""How many workers an elastic run has: what Ray Train's policy finds room for, if the batch divides by it.

What this uses of Ray Train is private: an upgrade of Ray may break it.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final

from ray.data._internal.cluster_autoscaler.base_autoscaling_coordinator import ReservedResources
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus
from ray.train.v2._internal.execution.worker_group.state import WorkerGroupState

from metaug_ray.runtime.words import counted

_log = logging.getLogger(__name__)
_TOLD_EVERY: Final = 600.0
_SOON: Final = 60.0


class AllowedCounts(ElasticScalingPolicy):  # type: ignore[misc]
    """Ray Train's elastic policy, rounded down to a number of workers that is allowed. A run that trains takes in more
    workers once a checkpoint is written, for it begins again from the last one.

    Args:
        scaling_config: of the trainer.
        counts: that are allowed, ascending.
        saved: gives when the last checkpoint was written, by `time.monotonic`.
    """

    def __init__(self, scaling_config: ScalingConfig, counts: Sequence[int], saved: Callable[[], float]) -> None:
        super().__init__(scaling_config)
        self._counts, self._saved = counts, saved
        self._room_since: float | None = None
        self._waiting_since: float | None = None
        self._told = 0.0

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """Ray Train's, but not before a checkpoint."""
        self._waiting_since = None
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if not isinstance(decision, ResizeDecision):
            return decision
        if self._room_since is None:
            self._room_since = time.monotonic()
            _log.info("there is room for %s, from the next checkpoint on", counted(decision.num_workers, "worker"))
        if self._saved() < self._room_since:
            return NoopDecision()
        return decision

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Ray Train's; where there is room for too few workers, that is said from time to time."""
        self._room_since = None
        decision = super().make_decision_for_non_running_worker_group()
        now = time.monotonic()
        if not isinstance(decision, NoopDecision):
            self._waiting_since = None
            return decision
        self._waiting_since = self._waiting_since or now
        if now - self._waiting_since > _SOON and now - self._told > _TOLD_EVERY:
            self._told = now
            least = counted(self._counts[0], "worker")
            _log.warning("waiting for nodes: the cluster has no room for %s (compute.min_workers)", least)
        return decision

    def _count_possible_workers(self, reserved_resources: ReservedResources) -> int:
        return most_allowed(self._counts, super()._count_possible_workers(reserved_resources))


def most_allowed(counts: Sequence[int], possible: int) -> int:
    """The greatest of `counts` that is possible; 0 where none is."""
    return max((count for count in counts if count <= possible), default=0)
