"""Memory of each node: its own, what processes share of it, and Ray's object store, which lies in that."""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from metaug_ray.data.progress import readable_size
from metaug_ray.preflight.cluster_nodes import Node
from metaug_ray.preflight.findings import Failed, Finding, fault, faults, warning

_CHECK: Final = "memory"
_LEAST_SHARED: Final = 256 << 20
"""Bytes of /dev/shm; containers get 64 MiB where nobody asks for more, which NCCL's workers of one node fill."""
_FULL: Final = 0.95
"""Share of the memory in use at which Ray begins to kill workers."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one node: in all, of these in use, and of /dev/shm in all and free."""

    total: int
    used: int
    shared: int
    shared_free: int


def memory() -> Memory:
    """Of this machine."""
    own, shared = psutil.virtual_memory(), shutil.disk_usage(Path("/dev/shm"))
    return Memory(own.total, own.total - own.available, shared.total, shared.free)


def check_memory(told: Mapping[str, Memory], failed: Mapping[str, Failed], nodes: Sequence[Node]) -> list[Finding]:
    """Whether there is room for workers, and for what they share."""
    findings = faults(_CHECK, failed, "mount /dev/shm there: `docker run --shm-size`, or an emptyDir of medium Memory")
    for node in nodes:
        if node.name in told:
            findings.append(_check_node(node.name, told[node.name], node.resources.get("object_store_memory", 0)))
    return findings


def _check_node(node: str, own: Memory, store: float) -> Finding:
    free = readable_size(own.total - own.used)
    shown = (
        f"{free} of {readable_size(own.total)} free, /dev/shm {readable_size(own.shared_free)} of "
        f"{readable_size(own.shared)} free, object store {readable_size(store)}"
    )
    if own.used > _FULL * own.total:
        return fault(node, _CHECK, shown, "Ray kills workers where so little is free: end what else runs there")
    if own.shared < _LEAST_SHARED:
        return fault(node, _CHECK, shown, "make /dev/shm larger: `docker run --shm-size 8g`, or `ray start` outside")
    if store > own.shared:
        return warning(
            node,
            _CHECK,
            shown,
            "Ray's object store does not fit into /dev/shm, and lies on the disk: make /dev/shm larger, or start Ray "
            "with a smaller --object-store-memory",
        )
    return Finding(node, _CHECK, shown)
