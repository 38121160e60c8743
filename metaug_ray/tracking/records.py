"""What a run's journal holds, a line of JSON each. The forms are those that every version has written."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class Started:
    """A start of the run, at a time in seconds since 1970."""

    kind: ClassVar = "start"
    time: float


@dataclass(frozen=True)
class Params:
    """Settings by dotted name."""

    kind: ClassVar = "params"
    values: Mapping[str, str]


@dataclass(frozen=True)
class Metrics:
    """Values by metric after so many steps."""

    kind: ClassVar = "metrics"
    step: int
    time: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class File:
    """A file of the run's folder, by its path beneath `files/`."""

    kind: ClassVar = "file"
    name: str


@dataclass(frozen=True)
class Tags:
    """Tags of the run."""

    kind: ClassVar = "tags"
    values: Mapping[str, str]


@dataclass(frozen=True)
class Ended:
    """The end of the run, or of one of its starts."""

    kind: ClassVar = "status"
    status: RunStatus
    time: float


Record = Started | Params | Metrics | File | Tags | Ended

_KINDS: Final[Mapping[str, type[Record]]] = {
    record.kind: record for record in (Started, Params, Metrics, File, Tags, Ended)
}


def to_line(record: Record) -> bytes:
    """A record as a line of JSON."""
    return json.dumps({"kind": record.kind} | dataclasses.asdict(record)).encode() + b"\n"


def from_line(line: bytes) -> Record:
    """The record of a line.

    Raises:
        ValueError: it is none that this version knows.
    """
    content = json.loads(line)
    kind = content.get("kind") if isinstance(content, dict) else None
    known = _KINDS.get(kind) if isinstance(kind, str) else None
    if known is None:
        raise ValueError(f"a record of the kind {kind!r}, which this version of metaug_ray does not know")
    names = {field.name for field in dataclasses.fields(known)}
    try:
        # A later version may say more.
        return known(**{name: value for name, value in content.items() if name in names})
    except TypeError as error:
        raise ValueError(f"a record of the kind {kind!r} that lacks something ({error})") from error
