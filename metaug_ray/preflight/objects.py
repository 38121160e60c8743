"""Ray's object store: whether what the driver puts there arrives on every node."""

from collections.abc import Mapping
from typing import Final

from metaug_ray.preflight.findings import Failed, Finding, fault, faults

_CHECK: Final = "object store"
_ADVICE: Final = "open the object manager's port between the nodes, and look into raylet.err of the node for its store"
SIZE: Final = 8_000_000
"""Bytes that are sent: more than Ray sends along with a call."""


def size_of(content: bytes) -> int:
    """Bytes of what came."""
    return len(content)


def check_objects(told: Mapping[str, int], failed: Mapping[str, Failed]) -> list[Finding]:
    """Whether all of it came.

    Args:
        told: bytes that came, by node.
        failed: why nothing came to others, by node.
    """
    findings = faults(_CHECK, failed, _ADVICE)
    for node, size in told.items():
        if size == SIZE:
            findings.append(Finding(node, _CHECK, f"{SIZE:,} bytes arrive"))
        else:
            findings.append(fault(node, _CHECK, f"of {SIZE:,} bytes {size:,} arrive", _ADVICE))
    return findings
