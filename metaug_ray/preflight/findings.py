"""What a check found, and how bad it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

SILENT_ADVICE: Final = (
    "see in `ray status` whether the node is still there, and on it whether a disk or a mount hangs; where it is only "
    "slow, give more --check.timeout"
)
Verdict = Literal["ok", "warning", "fault"]

CLUSTER: Final = "cluster"
"""What stands in a node's place where something was found of all of them together."""
DRIVER: Final = "driver"
"""And of the machine that the command, and later the run's, is given on."""


@dataclass(frozen=True)
class Finding:
    """One row of the table.

    Attributes:
        node: that it was found on.
        check: what was looked at.
        measured: what was found.
        verdict: a warning may make a run slow, a fault would end it.
        advice: what to do; nothing where it is ok.
    """

    node: str
    check: str
    measured: str
    verdict: Verdict = "ok"
    advice: str = ""


def warning(node: str, check: str, measured: str, advice: str) -> Finding:
    """Of what may make a run slow."""
    return Finding(node, check, measured, "warning", advice)


def fault(node: str, check: str, measured: str, advice: str) -> Finding:
    """Of what would end a run."""
    return Finding(node, check, measured, "fault", advice)


@dataclass(frozen=True)
class Failed:
    """Why a node could not do what it was asked for; a silent one did not answer in time."""

    why: str
    silent: bool = False


def faults(check: str, failed: Mapping[str, Failed], advice: str) -> list[Finding]:
    """Of nodes on which a check could not be made.

    Args:
        check: that was made.
        failed: why, by node.
        advice: what to do, where the node answered.
    """
    return [fault(node, check, own.why, SILENT_ADVICE if own.silent else advice) for node, own in failed.items()]


def judged(node: str, check: str, measured: str, rate: float, least: float, advice: str) -> Finding:
    """A fault where a rate is too low, in megabytes a second both."""
    if rate >= least:
        return Finding(node, check, measured)
    return fault(node, check, f"{measured}; expected at least {least:g} MB/s", advice)
