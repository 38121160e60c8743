"""Whether each node can reach the ports of all others that Ray and PyTorch need."""

import socket
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

from metaug_ray.preflight.cluster_nodes import Node
from metaug_ray.preflight.findings import SILENT_ADVICE, Failed, Finding, fault, faults

_CHECK: Final = "ports"
_PATIENCE: Final = 3.0
_AT_A_TIME: Final = 64
_TOLD: Final = 4
"""Ports that are told of one node."""
WORKERS: Final = "workers and torch.distributed"
"""What takes any port that is free."""


@dataclass(frozen=True)
class Port:
    """A port of a node, and what listens on it."""

    node: str
    address: str
    number: int
    what: str


def needed(nodes: Sequence[Node], head: str, free: Mapping[str, int]) -> list[Port]:
    """All ports that each node has to reach.

    Args:
        nodes: of the cluster.
        head: host:port of the cluster's address.
        free: of each node a port that nobody chose, by name.
    """
    host, _, number = head.rpartition(":")
    found = [Port("head", host, int(number), "GCS")]
    for node in nodes:
        found += [Port(node.name, node.address, port, what) for what, port in node.ports.items()]
        if node.name in free:
            found.append(Port(node.name, node.address, free[node.name], WORKERS))
    return found


def unreachable(ports: Sequence[Port], patience: float = _PATIENCE) -> list[tuple[Port, str]]:
    """Those that this node cannot reach, and why."""
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        reasons = pool.map(partial(_refused, patience=patience), ports)
        return [(port, reason) for port, reason in zip(ports, reasons, strict=True) if reason is not None]


def check_ports(
    told: Mapping[str, Sequence[tuple[Port, str]]], failed: Mapping[str, Failed], count: int
) -> list[Finding]:
    """Whether each node reaches all ports.

    Args:
        told: what was not reached and why, by the node that tried.
        failed: why others told nothing, by node.
        count: of the ports that each tried.
    """
    findings = faults(_CHECK, failed, SILENT_ADVICE)
    for node, closed in told.items():
        if not closed:
            findings.append(Finding(node, _CHECK, f"reaches all {count} of the cluster"))
            continue
        shown = ", ".join(
            f"{port.address}:{port.number} ({port.what} of {port.node}: {why})" for port, why in closed[:_TOLD]
        )
        more = f" and {len(closed) - _TOLD} more" if len(closed) > _TOLD else ""
        findings.append(fault(node, _CHECK, f"cannot reach {shown}{more}", _advice([port for port, _ in closed])))
    return findings


def _advice(closed: Sequence[Port]) -> str:
    if all(port.what == WORKERS for port in closed):
        return (
            "open all ports above 1023 between the nodes in firewalls, security groups or network policies: "
            "torch.distributed and NCCL take any that is free"
        )
    return (
        "open all ports between the nodes in firewalls, security groups or network policies, and give each node an "
        "address that the others reach (`ray start --node-ip-address`)"
    )


def _refused(port: Port, patience: float) -> str | None:
    try:
        socket.create_connection((port.address, port.number), timeout=patience).close()
    except TimeoutError:
        return f"no answer within {patience:g} s"
    except OSError as error:
        return error.strerror or str(error)
    return None
