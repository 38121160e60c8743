"""The clocks of the nodes against the driver's."""

import time
from collections.abc import Mapping, Sequence
from typing import Final

from metaug_ray.preflight.findings import SILENT_ADVICE, Failed, Finding, fault, faults

_CHECK: Final = "clock"
_ADVICE: Final = (
    "set its clock by NTP (`timedatectl set-ntp true`, or chrony): signed requests to S3 and tokens are refused, and "
    "times in logs and MLflow are wrong"
)

Sample = tuple[float, float, float]
"""Seconds since 1970 at which the driver asked, the node answered, and the answer came."""


def now() -> float:
    """Of this node, in seconds since 1970."""
    return time.time()


def skew(samples: Sequence[Sample]) -> tuple[float, float]:
    """Seconds that a node's clock is ahead of the driver's, and how far off that may be: half of the shortest way
    there and back, as of NTP (RFC 5905, section 8)."""
    sent, told, came = min(samples, key=lambda sample: sample[2] - sample[0])
    return told - (sent + came) / 2, (came - sent) / 2


def check_clock(told: Mapping[str, Sequence[Sample]], failed: Mapping[str, Failed], greatest: float) -> list[Finding]:
    """Whether clocks agree.

    Args:
        told: samples by node.
        failed: why others told nothing, by node.
        greatest: difference that is allowed, in seconds.
    """
    findings = faults(_CHECK, failed, SILENT_ADVICE)
    for node, samples in told.items():
        ahead, within = skew(samples)
        shown = f"{ahead:+.3f} s to the driver's, within {within:.3f} s"
        if abs(ahead) - within > greatest:
            findings.append(fault(node, _CHECK, f"{shown}; at most {greatest:g} s are allowed", _ADVICE))
        else:
            findings.append(Finding(node, _CHECK, shown))
    return findings
