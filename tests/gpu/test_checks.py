"""The checks for a GPU, as far as a CPU takes them."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.gpu.__main__ import main
from tests.gpu.room import unless_out_of_memory
from tests.gpu.runner import Check, run_checks
from tests.gpu.setting import Row, Setting
from tests.gpu.timing import Stopwatch
from tests.gpu.trace import busy_seconds

CPU = torch.device("cpu")


def fails(_: Setting) -> Iterator[Row]:
    yield Row("before", "1")
    raise ValueError("first line\nsecond line")


def passes(_: Setting) -> Iterator[Row]:
    yield Row("only", "2")


def test_a_fault_does_not_touch_the_next_check(tmp_path: Path) -> None:
    run_checks([Check("fails", fails), Check("passes", passes)], Setting(CPU, tmp_path), {})
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [(row["check"], row["measured"], row["verdict"]) for row in rows] == [
        ("fails", "1", "ok"),
        ("fails", "ValueError: first line", "FAULT"),
        ("passes", "2", "ok"),
    ]
    assert "second line" in (tmp_path / "log.txt").read_text()


def test_nothing_begins_after_the_deadline(tmp_path: Path) -> None:
    (result,) = run_checks([Check("passes", passes)], Setting(CPU, tmp_path, deadline=0.0), {})
    assert result.row.verdict == "skipped: no time left"


def test_too_little_memory_is_no_fault() -> None:
    def raises(message: str) -> None:
        raise RuntimeError(message)

    assert unless_out_of_memory(lambda: raises("CUDA out of memory. Tried to allocate 2 GiB")) is None
    with pytest.raises(RuntimeError, match="misaligned"):
        unless_out_of_memory(lambda: raises("misaligned address"))


def test_inner_parts_do_not_count_for_outer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(10))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    watch = Stopwatch(CPU)
    inner = watch.timed("inner", lambda: None)
    watch.timed("outer", lambda: (inner(), inner()))()
    assert watch.seconds() == {"inner": 2.0, "outer": 3.0}


def test_kernels_that_overlap_keep_the_gpu_busy_once() -> None:
    assert busy_seconds([(0.0, 2.0), (1.0, 1.5), (1.5, 3.0), (4.0, 5.0)]) == 4.0


def test_what_needs_no_gpu_runs_without_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checks = ["ceilings", "meta-gradient", "passes", "profile", "synchronisations", "one-rank", "learning"]
    ended = main(["--device", "cpu", "--quick", "--output", str(tmp_path), "--only", *checks])
    said = capsys.readouterr().out
    assert ended == 0, said
    assert "| one-rank | 4 steps with DDP on gloo, and without | equal bit for bit | ok |" in said
    assert said.count("| skipped: ") == 2
