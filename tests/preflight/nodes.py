"""Nodes as Ray would tell of them."""

from typing import Any

from metaug_ray.preflight.cluster_nodes import Node, described
from metaug_ray.preflight.findings import Finding


def told(number: int, **resources: float) -> dict[str, Any]:
    return {
        "NodeID": f"{number}" * 12,
        "NodeManagerHostname": f"host{number}",
        "NodeManagerAddress": f"10.0.0.{number}",
        "NodeManagerPort": 7000 + number,
        "ObjectManagerPort": 8000 + number,
        "Resources": {"CPU": 4.0, "object_store_memory": 2.0**30} | resources,
    }


def two_nodes(**resources: float) -> list[Node]:
    """Of which the second is the driver's."""
    return described([told(1, **resources), told(2, **resources)], "2" * 12)


FIRST, HOME = "host1 (10.0.0.1)", "host2 (10.0.0.2)"


def the_fault(findings: list[Finding]) -> Finding:
    """The only one that there is."""
    (found,) = [finding for finding in findings if finding.verdict == "fault"]
    assert found.advice
    return found
