from pathlib import Path

import pytest
import ray

from metaug_ray.commands.check_cluster import main


def test_a_cluster_that_is_not_there_is_a_fault_and_the_rest_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Other tests of this process may have joined one.
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    status = main(["--compute.address", "127.0.0.1:9", "--tracking.uri", f"sqlite:///{tmp_path}/mlflow.db"])
    told = capsys.readouterr()
    assert (status, told.err) == (1, "check_cluster.py: 1 fault; the table says what to do about each\n")
    assert "no Ray cluster at 127.0.0.1:9" in told.out
    assert "will be made" in told.out
    assert not list(tmp_path.iterdir())
