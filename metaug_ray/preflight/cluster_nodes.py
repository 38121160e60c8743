"""The nodes of the cluster, as Ray knows them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray

from metaug_ray.config.preflight import PreflightSettings
from metaug_ray.preflight.findings import CLUSTER, Finding, fault
from metaug_ray.runtime.errors import ClusterError
from metaug_ray.runtime.placement import place_workers
from metaug_ray.runtime.words import counted


@dataclass(frozen=True)
class Node:
    """A node that is alive.

    Attributes:
        id: Ray's.
        name: that the table calls it by, of which there is one.
        address: of its network interface.
        resources: what it has in all, by Ray's names.
        ports: that Ray's processes there listen on, by what they are.
        home: whether the driver runs there.
    """

    id: str
    name: str
    address: str
    resources: Mapping[str, float]
    ports: Mapping[str, int]
    home: bool = False


def alive_nodes() -> list[Node]:
    """All of the cluster that this process joined, the driver's first."""
    here = ray.get_runtime_context().get_node_id()
    return described([node for node in ray.nodes() if node["Alive"]], here)


def described(nodes: Sequence[Mapping[str, Any]], here: str) -> list[Node]:
    """Nodes from what `ray.nodes()` tells of them.

    Args:
        nodes: that are alive.
        here: id of the driver's.
    """
    names = [_name(node) for node in nodes]
    often = Counter(names)
    found = [
        Node(
            id=node["NodeID"],
            name=name if often[name] == 1 else f"{name} {node['NodeID'][:6]}",
            address=node["NodeManagerAddress"],
            resources=node["Resources"],
            ports={"node manager": node["NodeManagerPort"], "object manager": node["ObjectManagerPort"]},
            home=node["NodeID"] == here,
        )
        for node, name in zip(nodes, names, strict=True)
    ]
    return sorted(found, key=lambda node: (not node.home, node.name))


def check_cluster(nodes: Sequence[Node], settings: PreflightSettings) -> list[Finding]:
    """Whether there are as many nodes as expected, and room for the run's workers."""
    compute, least = settings.compute, settings.check.nodes
    count = counted(len(nodes), "node")
    if len(nodes) < least:
        found = [fault(CLUSTER, "nodes", f"{count}; expected {least}", "start the others, or look at `ray status`")]
    else:
        found = [Finding(CLUSTER, "nodes", count)]
    try:
        placement = place_workers(
            compute.device,
            compute.workers,
            compute.cpus_per_worker,
            [node.resources for node in nodes],
            min_workers=compute.min_workers,
            gpus_per_worker=compute.gpus_per_worker,
        )
    except ClusterError as error:
        what, _, advice = str(error).rpartition("; ")
        return [*found, fault(CLUSTER, "room for workers", what, advice)]
    gpu = f"{placement.gpu_share:g} GPU and " if placement.gpu else ""
    each = f"{gpu}{counted(placement.cpus, 'CPU')}"
    return [*found, Finding(CLUSTER, "room for workers", f"{counted(placement.workers, 'worker')} with {each}")]


def on_gpus(nodes: Sequence[Node], device: str) -> bool:
    """Whether a run's workers compute on GPUs."""
    return device != "cpu" and any(node.resources.get("GPU", 0) >= 1 for node in nodes)


def working(nodes: Sequence[Node], device: str) -> list[Node]:
    """Nodes on which workers may run: a head without CPUs is none of them."""
    kind = "GPU" if on_gpus(nodes, device) else "CPU"
    return [node for node in nodes if node.resources.get(kind, 0) >= 1]


def _name(node: Mapping[str, Any]) -> str:
    host, address = node["NodeManagerHostname"], node["NodeManagerAddress"]
    return address if host in (address, "localhost", "") else f"{host} ({address})"
