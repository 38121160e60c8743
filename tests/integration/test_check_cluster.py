"""The cluster of these tests, checked as before a long run."""

import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from metaug_ray.commands.check_cluster import main
from metaug_ray.preflight.all_reduce import measure_all_reduce
from metaug_ray.preflight.cluster_nodes import alive_nodes
from metaug_ray.preflight.findings import Failed
from metaug_ray.preflight.probes import Probes
from tests.log import Log

pytestmark = pytest.mark.usefixtures("ray_session")


def test_all_checks_of_which_one_finds_a_fault_and_nothing_is_left(
    tmp_path: Path, shapes_beton: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(
        [
            *("--data.beton", str(shapes_beton), "--health.knn.beton", f"{tmp_path}/no.beton"),
            *("--storage", f"{tmp_path}/runs", "--compute.staging", f"{tmp_path}/staging", "--compute.device", "cpu"),
            *("--tracking.uri", f"sqlite:///{tmp_path}/mlflow.db", "--check.megabytes", "2"),
            *("--check.least-disk", "0", "--check.least-storage", "0"),
        ]
    )
    told = capsys.readouterr()
    assert (status, told.err) == (1, "check_cluster.py: 1 fault; the table says what to do about each\n")
    rows = [[cell.strip() for cell in line.split("│")] for line in told.out.splitlines() if line.startswith("│")]
    # Further lines of a row begin with empty cells.
    verdicts = {(row[2], row[4]) for row in rows if row[2]}
    assert verdicts == {
        *((check, "ok") for check in ("nodes", "room for workers", "versions", "GPUs", "memory", "object store")),
        *((check, "ok") for check in ("clock", "ports", "storage", "beton", "staging disk", "MLflow")),
        ("all-reduce (gloo)", "ok"),
        ("beton", "fault"),
    }
    assert not list(tmp_path.iterdir())


def test_a_node_that_does_not_answer_is_given_up(log: Log) -> None:
    node = replace(alive_nodes()[0], name="a")
    with Probes([node], timeout=1) as probes:
        began = time.monotonic()
        told = probes.ask("sleep", time.sleep, lambda name: (600,), timeout=3)
        assert time.monotonic() - began < 60
        assert told.failed == {"a": Failed("no answer within 3 s", silent=True)}
        # It is not asked, and not waited for, again.
        assert (probes.answering(), probes.ask("more", shutil.which).failed) == ([], {})


def test_workers_that_reduce_and_one_that_has_no_place() -> None:
    (node,) = alive_nodes()
    found = measure_all_reduce([node, node], gpu=False, megabytes=1, timeout=100, least=0)
    assert (found.verdict, found.measured.startswith("2 workers, 1 MB: ")) == ("ok", True)
    with_gpu = replace(node, resources={**node.resources, "GPU": 1})
    found = measure_all_reduce([with_gpu], gpu=True, megabytes=1, timeout=1, least=0)
    assert (found.verdict, "is not schedulable" in found.measured) == ("fault", True)
    assert "`ray status`" in found.advice
