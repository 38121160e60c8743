"""What is about to be taken away: from Ray's nodes, or from whoever stops the driver, to the workers.

Ray Train has a process that watches for nodes that drain, as they do when a cloud takes a spot machine back. The
controller is in the driver here, so that a thread of it will do. What this uses of Ray Train is private: an upgrade of
Ray may break it.
"""

import logging
import time
from typing import Any, Final

import ray
import ray.train
from ray.train import TrainingFailedError
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.failure_handling.default import _is_preemption_failure
from ray.train.v2._internal.execution.preemption import PreemptionWatcher
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.poll import _is_preempted_actor
from ray.train.v2.api.preemption import PreemptionInfo

from metaug_ray.runtime.words import counted, duration

_log = logging.getLogger(__name__)
_POLL_SECONDS: Final = 2.0


def is_preemption(error: TrainingFailedError) -> bool:
    """Whether Ray Train begins again because machines were taken away, and counts no failure."""
    return bool(_is_preemption_failure(error))


def is_taken(error: Exception) -> bool:
    """Whether a worker ended because its node was taken away."""
    return bool(_is_preempted_actor(error))


def announced() -> tuple[str, ...] | None:
    """Nodes of this run's workers that are about to be taken away; None for none. A collective call of all workers."""
    info = ray.train.get_preemption_info()
    return None if info is None else tuple(info.preempted_node_ids)


class Notices(WorkerGroupCallback):  # type: ignore[misc]
    """Watches in the driver, and tells the workers."""

    def __init__(self) -> None:
        self._watcher: _Watcher | None = None
        self._workers: dict[int, Any] = {}
        self._ranks: dict[str, list[int]] = {}
        self._told: PreemptionInfo | None = None

    def after_worker_group_start(self, worker_group: WorkerGroup) -> None:
        self._stop()
        self._ranks = {}
        self._workers = {}
        for worker in worker_group.get_workers():
            rank = worker.distributed_context.world_rank
            self._ranks.setdefault(worker.metadata.node_id, []).append(rank)
            self._workers[rank] = worker.actor
        self._watcher = _Watcher(self._ranks, _POLL_SECONDS, self._workers)
        if self._told is not None:  # while these started
            self._tell()

    def before_worker_group_shutdown(self, worker_group: WorkerGroup) -> None:
        self._stop()

    def after_worker_group_abort(self, worker_group_context: Any) -> None:
        self._stop()

    def tell_all(self, seconds: float) -> None:
        """Say to all workers that everything is taken away in so many seconds."""
        self._told = PreemptionInfo(round(1000 * (time.time() + seconds)), {})
        self._tell()

    def _tell(self) -> None:
        assert self._told is not None
        # Besides its nodes, of which all may have been announced before, a name that no node has: it is new.
        info = PreemptionInfo(self._told.deadline_ms, self._ranks | {"": []})
        for worker in self._workers.values():
            worker.mark_preempt.remote(info)

    def _stop(self) -> None:
        if self._watcher is not None:
            self._watcher.end()
            self._watcher = None
        self._workers = {}


class _Watcher(PreemptionWatcher):  # type: ignore[misc]
    """Says on the driver what it tells the workers."""

    def end(self) -> None:
        self._stop_event.set()

    def _on_drain_change(self, drained: dict[str, int]) -> None:
        super()._on_drain_change(drained)
        for node, deadline in drained.items():
            left = f" in {duration(max(deadline / 1000 - time.time(), 0))}" if deadline else ""
            ranks = self._failure_domain_map[node]
            _log.warning(
                "the node %s, with %s, is taken away%s: a checkpoint is written before",
                _address(node),
                counted(len(ranks), "worker"),
                left,
            )


def _address(node_id: str) -> str:
    for node in ray.nodes():
        if node["NodeID"] == node_id:
            return str(node["NodeManagerAddress"])
    return node_id
