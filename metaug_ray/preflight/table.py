"""The table of all that was found."""

import shutil
import sys
from collections.abc import Sequence
from typing import Final, TextIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from metaug_ray.preflight.findings import CLUSTER, Finding

_STYLES: Final = {"ok": "green", "warning": "yellow", "fault": "red bold"}
_WIDTH: Final = 140
"""Columns where there is no terminal."""


def merged(findings: Sequence[Finding], nodes: int) -> list[Finding]:
    """One row for what is ok and the same on all nodes.

    Args:
        findings: in the order of the table.
        nodes: how many there are.
    """
    alike: dict[tuple[str, str], int] = {}
    for finding in findings:
        if finding.verdict == "ok" and finding.node != CLUSTER:
            alike[finding.check, finding.measured] = alike.get((finding.check, finding.measured), 0) + 1
    rows: list[Finding] = []
    for finding in findings:
        everywhere = nodes > 1 and alike.get((finding.check, finding.measured)) == nodes
        row = (
            Finding("all nodes", finding.check, finding.measured) if everywhere and finding.verdict == "ok" else finding
        )
        if row not in rows:
            rows.append(row)
    return rows


def show(findings: Sequence[Finding], nodes: int, file: TextIO | None = None) -> None:
    """Print the table to a file; default: standard output."""
    out = file or sys.stdout
    width = shutil.get_terminal_size((_WIDTH, 24)).columns if out.isatty() else _WIDTH
    table = Table(show_lines=True)
    for name in ("node", "check", "measured", "verdict", "what to do"):
        # Paths are longer than columns, and are told whole.
        table.add_column(name, overflow="fold")
    for row in merged(findings, nodes):
        texts = (row.node, row.check, row.measured)
        # Names and paths may hold brackets, which are marks to rich.
        table.add_row(*map(Text, texts), Text(row.verdict, _STYLES[row.verdict]), Text(row.advice))
    Console(file=out, width=width).print(table)
