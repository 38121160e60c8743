"""What a check found, and how bad it is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warning", "fault"]

ALL = "all nodes"
"""The node of what was found of the cluster as a whole."""


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


def faults(check: str, failed: Mapping[str, str], advice: str) -> list[Finding]:
    """Of nodes on which a check could not be made.

    Args:
        check: that was made.
        failed: why, by node.
        advice: what to do.
    """
    return [fault(node, check, why, advice) for node, why in failed.items()]


def judged(node: str, check: str, measured: str, rate: float, least: float, advice: str) -> Finding:
    """A fault where a rate is too low, in megabytes a second both."""
    if rate >= least:
        return Finding(node, check, measured)
    return fault(node, check, f"{measured}; expected at least {least:g} MB/s", advice)
