"""Runs checks one by one: what happens to one does not touch the next, and what is known is on disk at once."""

import json
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from tests.gpu.room import free_memory
from tests.gpu.setting import Row, Setting, skipped


class Check(NamedTuple):
    """A check by name."""

    name: str
    rows: Callable[[Setting], Iterator[Row]]
    tuned: bool = False
    """Whether cuDNN tries the algorithms of each convolution, as in training (`metaug_ray.runtime.device`): what
    measures time and memory needs it, and it takes seconds."""


class Result(NamedTuple):
    """A row of a check, and the seconds from the check's beginning to it."""

    check: str
    row: Row
    seconds: float


def run_checks(checks: list[Check], setting: Setting, machine: dict[str, str]) -> list[Result]:
    """Run all checks, print every row as it comes, and keep results.json up to date.

    Args:
        checks: in the order that they run in.
        setting: where.
        machine: what it is, for results.json.
    """
    results: list[Result] = []
    began = time.monotonic()

    def add(check: str, row: Row, seconds: float) -> None:
        results.append(Result(check, row, seconds))
        print(f"[{time.monotonic() - began:5.1f} s] {check}, {row.what}: {row.measured} {row.verdict}", flush=True)
        _write(setting.folder / "results.json", results, machine)

    try:
        for check in checks:
            if setting.left <= 0:
                add(check.name, skipped("all", "no time left"), 0.0)
                continue
            print(f"[{time.monotonic() - began:5.1f} s] {check.name} ...", flush=True)
            start = time.monotonic()
            torch.backends.cudnn.benchmark = check.tuned
            try:
                for row in check.rows(setting):
                    add(check.name, row, time.monotonic() - start)
            except Exception as error:
                setting.log(f"{check.name}\n{traceback.format_exc()}")
                # The frames of the traceback hold the tensors that the check had.
                traceback.clear_frames(error.__traceback__)
                add(check.name, Row("all of it", _first_line(error), "FAULT"), time.monotonic() - start)
            free_memory()
    finally:
        for child in setting.children.values():
            child.kill()
    return results


def table(results: list[Result]) -> str:
    """All rows, as a table of Markdown."""
    lines = ["| check | | measured | verdict |", "|---|---|---|---|"]
    lines += [f"| {check} | {row.what} | {row.measured} | {row.verdict} |" for check, row, _ in results]
    return "\n".join(lines)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


def _write(file: Path, results: list[Result], machine: dict[str, str]) -> None:
    rows = [{"check": r.check, "seconds": round(r.seconds, 2), **asdict(r.row)} for r in results]
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")
    # At no moment is there half a file.
    unfinished.replace(file)
