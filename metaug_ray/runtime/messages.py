"""What workers and Ray Train's controller tell the driver. `mailbox` carries it.

Whatever carries a message imports this module, so it imports nothing that takes long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

NOTICED: Final = "checkpoint/noticed"
"""Among the values of a checkpoint that was written when machines were about to be taken away, or the run was to end.
"""


@dataclass(frozen=True)
class Measured:
    """Values by metric after so many steps."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True)
class Histograms:
    """Shares of the similarities by kind, after so many steps."""

    step: int
    values: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Note:
    """A sentence for the user."""

    text: str


@dataclass(frozen=True)
class CheckpointWritten:
    """A checkpoint that is whole, and the last values by metric, with those of an evaluation made at its step."""

    name: str
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class WorkersFailed:
    """What happened to which workers."""

    text: str


Message = Measured | Histograms | Note | CheckpointWritten | WorkersFailed
