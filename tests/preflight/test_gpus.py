import re
from pathlib import Path

import pytest

from metaug_ray.preflight.findings import CLUSTER, Failed
from metaug_ray.preflight.gpus import Gpu, check_gpus, gpus, parsed
from tests.preflight.nodes import FIRST, HOME, the_fault, two_nodes

LINE = "NVIDIA H100 80GB HBM3, 81559, 4, 570.86.15"
H100 = parsed(LINE)
ALL_THERE = {HOME: [H100, H100], FIRST: [H100, H100]}


def put_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


def test_gpus_as_nvidia_smi_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi(tmp_path, monkeypatch, f"echo '{LINE}'; echo '{LINE}'")
    assert gpus() == [Gpu("NVIDIA H100 80GB HBM3", 81559, 4, "570.86.15")] * 2
    assert parsed("GRID, A100, [N/A], [N/A], 1.2") == Gpu("GRID, A100", 0, 0, "1.2")


def test_a_driver_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_nvidia_smi(tmp_path, monkeypatch, "echo 'Failed to initialize NVML: Driver/library version mismatch'; exit 18")
    with pytest.raises(RuntimeError, match=r"nvidia-smi ended with 18: Failed to initialize NVML"):
        gpus()
    why = {FIRST: Failed("nvidia-smi ended with 18")}
    assert the_fault(check_gpus({}, why, two_nodes(GPU=2), wanted=True)).node == FIRST
    (found,) = check_gpus({}, why, two_nodes(), wanted=False)
    assert found.verdict == "warning"


def test_none_are_needed_where_the_run_asks_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert gpus() == []
    found = check_gpus({HOME: [], FIRST: []}, {}, two_nodes(), wanted=False)
    assert {(finding.verdict, finding.measured) for finding in found} == {("ok", "none; the run uses none")}


def test_a_gpu_that_fell_off_the_bus() -> None:
    assert {found.verdict for found in check_gpus(ALL_THERE, {}, two_nodes(GPU=2), wanted=True)} == {"ok"}
    found = the_fault(check_gpus(ALL_THERE | {FIRST: [H100]}, {}, two_nodes(GPU=2), wanted=True))
    assert (found.node, found.measured.startswith("Ray counts 2, and nvidia-smi shows 1 x NVIDIA")) == (FIRST, True)


@pytest.mark.parametrize(
    ("there", "node", "said"),
    [
        ([H100] * 3, FIRST, "3 x .* of which Ray counts 2"),
        ([H100, Gpu(H100.name, 81559, 40000, H100.driver)], FIRST, "taken: 40,000 of 81,559 MiB"),
        ([H100, Gpu("NVIDIA A100", 40960, 4, H100.driver)], CLUSTER, "3 x NVIDIA H100 .*; 1 x NVIDIA A100"),
        ([H100, Gpu(H100.name, 81559, 4, "550.1")], CLUSTER, "driver 550.1"),
    ],
)
def test_what_makes_a_run_slow_or_is_odd_is_a_warning(there: list[Gpu], node: str, said: str) -> None:
    findings = check_gpus(ALL_THERE | {FIRST: there}, {}, two_nodes(GPU=2), wanted=True)
    (found,) = [finding for finding in findings if finding.verdict != "ok"]
    assert (found.verdict, found.node) == ("warning", node)
    assert re.search(said, found.measured)
