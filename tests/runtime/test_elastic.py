"""Numbers of workers that an elastic run may have."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision, ResizeDecision

from metaug_ray.runtime import elastic
from metaug_ray.runtime.elastic import AllowedCounts, most_allowed
from tests.log import Log


def test_the_greatest_number_that_is_possible() -> None:
    assert [most_allowed((4, 6, 8), possible) for possible in (3, 4, 5, 7, 8, 9)] == [0, 4, 4, 6, 8, 8]


def test_rays_policy_counts_only_what_is_allowed() -> None:
    scaling = ScalingConfig(num_workers=(2, 8), use_gpu=False, resources_per_worker={"CPU": 2})
    policy = AllowedCounts(scaling, (2, 4, 8), lambda: 0.0)
    reserved = {"a": {"CPU": 8.0}, "b": {"CPU": 7.0}}
    # Seven fit.
    assert policy._count_possible_workers(reserved) == 4
    assert policy._count_possible_workers({"a": {"CPU": 3.0}}) == 0


@pytest.fixture
def rays(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What Ray's own policy decides."""
    decided = SimpleNamespace(decision=ResizeDecision(num_workers=4, resources_per_worker={}))
    for name in ("make_decision_for_running_worker_group", "make_decision_for_non_running_worker_group"):
        monkeypatch.setattr(ElasticScalingPolicy, name, lambda *_: decided.decision)
    return decided


def test_a_run_takes_in_workers_once_a_checkpoint_is_written(rays: SimpleNamespace, log: Log) -> None:
    """It begins again from the last one, and would make steps twice."""
    saved = SimpleNamespace(at=time.monotonic())
    policy = AllowedCounts(ScalingConfig(num_workers=(2, 4)), (2, 4), lambda: saved.at)
    state: Any = None
    for _ in range(3):
        assert isinstance(policy.make_decision_for_running_worker_group(state, state), NoopDecision)
    assert log.messages == ["there is room for 4 workers, from the next checkpoint on"]
    saved.at = time.monotonic()
    assert policy.make_decision_for_running_worker_group(state, state) is rays.decision
    # Workers that are lost are another matter.
    assert policy.make_decision_for_non_running_worker_group() is rays.decision
    assert isinstance(policy.make_decision_for_running_worker_group(state, state), NoopDecision)


def test_what_is_waited_for_is_said(rays: SimpleNamespace, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = AllowedCounts(ScalingConfig(num_workers=(2, 4)), (2, 4), lambda: 0.0)
    rays.decision = NoopDecision()
    monkeypatch.setattr(elastic, "_SOON", 0.05)
    assert policy.make_decision_for_non_running_worker_group() is rays.decision
    assert not log.messages
    time.sleep(0.1)
    for _ in range(3):
        assert policy.make_decision_for_non_running_worker_group() is rays.decision
    assert log.messages == ["waiting for nodes: the cluster has no room for 2 workers (compute.min_workers)"]
