"""Steps that are measured one after another, and the table of what they found."""

import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class FaultError(Exception):
    """Something is wrong with the image; the message says what."""


class Step(NamedTuple):
    """Something to do, and what it found in a few words.

    Its function raises `FaultError` where the image is not as it should be.
    """

    name: str
    do: Callable[[], str]
    needed: bool = False
    """Whether no other step makes sense without it."""


class Row(NamedTuple):
    """What came of a step."""

    name: str
    found: str
    seconds: float
    verdict: str


def run_steps(steps: list[Step], log: Path) -> list[Row]:
    """Run the steps in their order, printing each row as it comes; ends early where a needed one fails."""
    rows: list[Row] = []
    for step in steps:
        print(f"{step.name} ...", flush=True)
        began = time.monotonic()
        try:
            found, verdict = step.do(), "ok"
        except Exception as error:
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{step.name}\n{traceback.format_exc()}\n")
            found, verdict = (
                str(error) if isinstance(error, FaultError) else f"{type(error).__name__}: {error}",
                "FAULT",
            )
        rows.append(Row(step.name, " ".join(found.split()), time.monotonic() - began, verdict))
        print(f"  {rows[-1].found} ({rows[-1].seconds:.0f} s) {verdict}", flush=True)
        if step.needed and verdict != "ok":
            break
    return rows


def table(rows: list[Row]) -> str:
    """All rows, as a table of Markdown."""
    lines = ["| step | found | seconds | |", "|---|---|---|---|"]
    lines += [f"| {row.name} | {row.found} | {row.seconds:.0f} | {row.verdict} |" for row in rows]
    return "\n".join(lines)
