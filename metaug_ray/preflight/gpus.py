"""The GPUs of each node, as the driver of NVIDIA's sees them and as Ray counts them."""

import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from metaug_ray.preflight.cluster_nodes import Node
from metaug_ray.preflight.findings import CLUSTER, Failed, Finding, fault, faults, warning

_CHECK: Final = "GPUs"
_ADVICE: Final = "look at `nvidia-smi` there: reinstall the driver, or reboot the machine"
_FIELDS: Final = "name,memory.total,memory.used,driver_version"
_HELD: Final = 0.05
"""Share of a GPU's memory that others may hold before it is told."""


@dataclass(frozen=True)
class Gpu:
    """A GPU: its name, memory and what of it is taken, in MiB, and the version of its driver."""

    name: str
    memory: int
    used: int
    driver: str


def gpus() -> list[Gpu]:
    """All of this machine's, whomever they are reserved for; none where it has no driver.

    Raises:
        RuntimeError: the driver is there, and does not answer.
    """
    command = ["nvidia-smi", f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:
        return []
    if told.returncode:
        raise RuntimeError(f"nvidia-smi ended with {told.returncode}: {(told.stdout + told.stderr).strip()}")
    return [parsed(line) for line in told.stdout.splitlines() if line.strip()]


def parsed(line: str) -> Gpu:
    """A GPU from a line of nvidia-smi's; of shared ones it may not tell the memory."""
    name, memory, used, driver = (part.strip() for part in line.rsplit(",", 3))
    total, taken = (int(size) if size.isdigit() else 0 for size in (memory, used))
    return Gpu(name, total, taken, driver)


def check_gpus(
    told: Mapping[str, Sequence[Gpu]], failed: Mapping[str, Failed], nodes: Sequence[Node], *, wanted: bool
) -> list[Finding]:
    """Whether Ray's GPUs are there, are free, and are of one kind.

    Args:
        told: by node.
        failed: why others told nothing, by node.
        nodes: of the cluster.
        wanted: whether a run's workers compute on GPUs.
    """
    findings = faults(_CHECK, failed, _ADVICE)
    if not wanted:
        findings = [warning(found.node, _CHECK, found.measured, found.advice) for found in findings]
    for node in nodes:
        if node.name in told:
            findings.append(_check_node(node, told[node.name], wanted))
    if wanted:
        findings += _check_kinds([gpu for found in told.values() for gpu in found])
    return findings


def _check_node(node: Node, found: Sequence[Gpu], wanted: bool) -> Finding:
    counted = int(node.resources.get("GPU", 0))
    shown = ", ".join(f"{count} x {kind}" for kind, count in Counter(map(_described, found)).items()) or "none"
    if not wanted:
        return Finding(node.name, _CHECK, f"{shown}; the run uses none")
    if len(found) < counted:
        return fault(
            node.name,
            _CHECK,
            f"Ray counts {counted}, and nvidia-smi shows {shown}",
            "give the container its GPUs, or start Ray there with the --num-gpus that there are",
        )
    if len(found) > counted:
        return warning(
            node.name,
            _CHECK,
            f"{shown}, of which Ray counts {counted}",
            "start Ray there again without --num-gpus, unless the others are somebody else's",
        )
    if held := [gpu for gpu in found if gpu.used > _HELD * gpu.memory]:
        taken = ", ".join(f"{gpu.used:,} of {gpu.memory:,} MiB" for gpu in held)
        return warning(
            node.name, _CHECK, f"{shown}; taken: {taken}", "see by `nvidia-smi` there who holds their memory"
        )
    return Finding(node.name, _CHECK, shown)


def _check_kinds(found: Sequence[Gpu]) -> list[Finding]:
    kinds = Counter(map(_described, found))
    if len(kinds) < 2:
        return []
    mixed = "; ".join(f"{count} x {kind}" for kind, count in kinds.items())
    advice = "the run goes at the pace of the slowest, within the memory of the smallest; use nodes of one kind"
    return [warning(CLUSTER, _CHECK, mixed, advice)]


def _described(gpu: Gpu) -> str:
    return f"{gpu.name} of {gpu.memory:,} MiB, driver {gpu.driver}"
