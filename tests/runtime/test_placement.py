from typing import Any

import pytest

from metaug_ray.runtime.errors import ClusterError
from metaug_ray.runtime.placement import Placement, Resources, place_workers, workers_that_fit

GIB = 2.0**30
CPU_NODE = {"CPU": 4.0, "memory": 8 * GIB}
GPU_NODE = {"CPU": 32.0, "GPU": 4.0, "memory": 256 * GIB}


def place(nodes: list[Resources], device: str = "auto", **compute: Any) -> Placement:
    chosen = {"workers": None, "cpus_per_worker": None} | compute
    return place_workers(device, chosen.pop("workers"), chosen.pop("cpus_per_worker"), nodes, **chosen)


@pytest.mark.parametrize(
    ("compute", "nodes", "expected"),
    [
        ({}, [CPU_NODE], Placement((1,), 4, False)),
        ({}, [CPU_NODE, CPU_NODE], Placement((2,), 4, False)),
        ({"workers": 4}, [CPU_NODE], Placement((4,), 1, False)),
        ({"workers": 2, "cpus_per_worker": 1}, [CPU_NODE], Placement((2,), 1, False)),
        ({}, [GPU_NODE, GPU_NODE], Placement((8,), 8, True)),
        ({"workers": 2}, [GPU_NODE], Placement((2,), 8, True)),
        ({}, [CPU_NODE, GPU_NODE], Placement((4,), 8, True)),
        ({"device": "cpu"}, [GPU_NODE], Placement((1,), 32, False)),
        ({"workers": 2, "min_workers": 1}, [CPU_NODE], Placement((1, 2), 2, False)),
        # Sixteen such runs share the node, and its CPUs.
        ({"workers": 1, "gpus_per_worker": 0.25}, [GPU_NODE], Placement((1,), 2, True, 0.25)),
        # Three on each GPU, so twelve on the node: a GPU's last tenth is of no use.
        ({"workers": 1, "gpus_per_worker": 0.3}, [GPU_NODE], Placement((1,), 2, True, 0.3)),
        ({"workers": 1, "gpus_per_worker": 0.01}, [GPU_NODE], Placement((1,), 1, True, 0.01)),
        ({"workers": 1, "gpus_per_worker": 0.25}, [CPU_NODE], Placement((1,), 4, False)),
        # Started again after half of its nodes were lost.
        ({"workers": 8, "min_workers": 4, "cpus_per_worker": 8}, [GPU_NODE], Placement((4, 5, 6, 7, 8), 8, True)),
    ],
)
def test_chooses_what_is_left_open(compute: dict[str, Any], nodes: list[dict[str, float]], expected: Placement) -> None:
    assert place(nodes, **compute) == expected


@pytest.mark.parametrize(
    ("compute", "nodes", "message"),
    [
        (
            {"device": "gpu"},
            [CPU_NODE],
            r"compute.device: gpu, but the cluster has none \(one node of 4 CPUs and 0 GPUs",
        ),
        ({"workers": 8}, [GPU_NODE], r"8 workers x 1 GPU = 8 GPUs, but the cluster has 4 .* ask for at most 4"),
        (
            {"workers": 2, "cpus_per_worker": 3},
            [CPU_NODE],
            r"2 workers x 3 CPUs = 6 CPUs, but the cluster has room for 1 of them in 4 CPUs",
        ),
        # Seven CPUs in all, but no node has room for a second one.
        ({"workers": 2, "cpus_per_worker": 3}, [CPU_NODE, {"CPU": 2.0}], r"room for 1 of them in 6 CPUs"),
        ({"workers": 8}, [CPU_NODE], r"8 workers x 1 CPUs = 8 CPUs, but the cluster has room for 4"),
        (
            {"cpus_per_worker": 16},
            [GPU_NODE],
            r"4 workers x 16 CPUs and 1 GPU = 64 CPUs, but the cluster has room for 2 of them in 32 CPUs",
        ),
        (
            {"workers": 1, "gpus_per_worker": 0.5, "cpus_per_worker": 64},
            [GPU_NODE],
            r"1 workers x 64 CPUs and 0.5 GPU = 64 CPUs, but the cluster has room for 0 of them in 32 CPUs",
        ),
        ({}, [], r"the cluster has no CPUs \(no nodes\)"),
    ],
)
def test_says_what_does_not_fit(compute: dict[str, Any], nodes: list[dict[str, float]], message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        place(nodes, **compute)


def test_a_node_has_room_for_as_many_workers_as_it_has_of_what_each_needs() -> None:
    node = {"CPU": 16.0, "GPU": 2.0}
    assert [workers_that_fit(node, cpus, gpu=True) for cpus in (1, 12)] == [2, 1]
    assert [workers_that_fit(node, cpus, gpu=False) for cpus in (1, 12)] == [16, 1]


@pytest.mark.parametrize(
    ("share", "expected"), [(1, 2), (0.6, 2), (0.5, 4), (0.4, 4), (1 / 3, 6), (0.3334, 4), (0.1, 20), (0.07, 28)]
)
def test_a_node_has_room_for_workers_that_share_its_gpus_but_no_worker_has_parts_of_two(
    share: float, expected: int
) -> None:
    assert workers_that_fit({"CPU": 64.0, "GPU": 2.0}, 1, gpu=True, gpu_share=share) == expected
    assert workers_that_fit({"CPU": 64.0, "GPU": 2.0}, 32, gpu=True, gpu_share=share) == 2


def test_ray_is_asked_for_the_share() -> None:
    assert Placement((1,), 2, True, 0.25).worker == {"CPU": 2, "GPU": 0.25}
    assert Placement((2,), 2, True).worker == {"CPU": 2, "GPU": 1}
    assert Placement((1,), 2, False).worker == {"CPU": 2}
