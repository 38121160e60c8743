"""Numbers of workers that an elastic run may have."""

from ray.train import ScalingConfig

from metaug_ray.runtime.elastic import AllowedCounts, most_allowed


def test_the_greatest_number_that_is_possible() -> None:
    assert [most_allowed((4, 6, 8), possible) for possible in (3, 4, 5, 7, 8, 9)] == [0, 4, 4, 6, 8, 8]


def test_rays_policy_counts_only_what_is_allowed() -> None:
    scaling = ScalingConfig(num_workers=(2, 8), use_gpu=False, resources_per_worker={"CPU": 2})
    policy = AllowedCounts(scaling, (2, 4, 8))
    reserved = {"a": {"CPU": 8.0}, "b": {"CPU": 7.0}}
    # Seven fit.
    assert policy._count_possible_workers(reserved) == 4
    assert policy._count_possible_workers({"a": {"CPU": 3.0}}) == 0
