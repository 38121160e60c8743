"""A plan in words: tables for people, and JSON."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from metaug_ray.capacity.disk import Disk
from metaug_ray.capacity.lines import GB, Line, Refused
from metaug_ray.capacity.plan import Plan
from metaug_ray.runtime.words import counted, duration

_WIDTH: Final = 120
_HEAD: Final = (
    ("GPUs", ""),
    ("batch", "images"),
    ("each", "images"),
    ("step", "ms"),
    ("network", "ms"),
    ("bound", "by"),
    ("images/s", ""),
    ("hours", ""),
    ("cost", ""),
    ("GPU", "GiB"),
    ("bank", "GiB"),
    ("sent", "MB/step"),
    ("cores", "a GPU"),
    ("memory", "GiB/node"),
)


def as_text(plan: Plan) -> str:
    """Tables and sentences, with a line for each number of GPUs."""
    parts = [
        f"{plan.run}: {plan.method}, {counted(plan.images, 'image')}, {counted(plan.epochs, 'epoch')}",
        _lines(plan.lines),
        _disk(plan),
        "Where today's design ends\n"
        + "\n".join(
            _wrapped(f"{'ok  ' if limit.holds else 'PAST'}  {limit.what}: {limit.text}") for limit in plan.limits
        ),
        "Assumptions, and the options that replace them\n"
        + _aligned([(a.option, a.value, a.source) for a in plan.assumptions], right=()),
    ]
    return "\n\n".join(parts) + "\n"


def as_json(plan: Plan) -> str:
    """All of it by name: seconds, bytes, GiB and hours as the classes say."""
    return json.dumps(asdict(plan), indent=2) + "\n"


def _lines(lines: Sequence[Line | Refused]) -> str:
    rows = [tuple(name for name, _ in _HEAD), tuple(unit for _, unit in _HEAD)]
    rows += [_row(line) for line in lines]
    table = _aligned(rows, right=range(len(_HEAD)))
    over = any(isinstance(line, Line) and not line.fits for line in lines)
    return table + ("\n* does not fit into the memory of a GPU or of a node" if over else "")


def _row(line: Line | Refused) -> tuple[str, ...]:
    if isinstance(line, Refused):
        return (f"{line.gpus:,}", "refused", *[""] * (len(_HEAD) - 2))
    return (
        f"{line.gpus:,}{'' if line.fits else '*'}",
        f"{line.batch:,}",
        f"{line.images:,}",
        f"{1e3 * line.step:,.0f}",
        f"{1e3 * line.network:,.1f}",
        line.bound,
        f"{line.images_per_second:,.0f}",
        f"{line.hours:,.1f}",
        f"{line.cost:,.0f}",
        f"{line.gpu_memory:,.1f}",
        f"{line.bank:,.2f}",
        f"{line.sent / 1e6:,.1f}",
        f"{line.cores:,.1f}",
        f"{line.node_memory:,.1f}",
    )


def _disk(plan: Plan) -> str:
    disk = plan.disk
    return "Disk\n" + _aligned(
        [
            ("data set, in the storage", f"{disk.beton / GB:,.1f} GB", ""),
            ("reading it once from a node's own disk", duration(disk.read_seconds), ""),
            ("a checkpoint", f"{disk.checkpoint / GB:,.2f} GB", _without_bank(disk)),
            ("writing it to the shared storage", duration(disk.checkpoint_seconds), ""),
            ("storage of the run", f"{disk.stored / GB:,.1f} GB", f"the beton and {disk.kept} checkpoints at a time"),
        ],
        right=(),
    )


def _without_bank(disk: Disk) -> str:
    return f"{disk.replicated / GB:,.2f} GB without the bank" if disk.replicated < disk.checkpoint else ""


def _aligned(rows: Sequence[tuple[str, ...]], right: Sequence[int]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, subsequent_indent=" " * 6, break_long_words=False, break_on_hyphens=False)
