"""Runs in MLflow: a database file, and a server that goes away."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psutil
import pytest
from mlflow.tracking import MlflowClient

from metaug_ray.tracking.connection import resolve_uri
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.tracking.runs import RunTracker
from tests.log import Log


def track(uri: str, folder: Path, key: str = "storage/run") -> RunTracker:
    return RunTracker(uri, "pretraining", "run", key, folder)


def test_a_database_that_several_open_first(tmp_path: Path) -> None:
    """Each would make the tables."""
    code = "import sys; from metaug_ray.tracking.connection import connect; connect(sys.argv[1])"
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/new/mlflow.db"]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    failures = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], failures
    assert failures == ["", "", ""]


def test_one_run_across_restarts(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first = track(uri, tmp_path / "run")
    first.settings({"compute": {"workers": 2}}, {"method": {"beta": 16.0}, "seed": 0}, "method:\n  beta: 16.0\n")
    for step in range(1, 6):
        first.metrics(step, {"loss/total": 1 / step})
    first.metrics(5, {"knn/accuracy": 0.25})
    first.histograms(5, {"positives": [0.5, 0.5], "negatives": [0.25, 0.75]})
    first.tags({"metaug.checkpoint": "/runs/run/checkpoint_000000004"})
    assert first.close("FAILED") == 0
    client = MlflowClient(uri)
    run = client.get_run(first.run_id)
    assert run.info.status == "FAILED"
    assert run.data.params == {"method.beta": "16.0", "seed": "0"}
    assert run.data.tags["metaug.checkpoint"].endswith("checkpoint_000000004")
    assert len(run.data.tags["mlflow.source.git.commit"]) == 40
    assert run.info.artifact_uri.startswith(f"file://{tmp_path}/mlartifacts/pretraining")

    # It goes on from step 3: what it measures again is not logged again.
    second = track(uri, tmp_path / "run")
    assert second.run_id == first.run_id
    second.settings({"compute": {"workers": 1}}, {"method": {"beta": 16.0}, "seed": 0}, "method:\n  beta: 16.0\n")
    assert second.series["loss/total"][-1] == (5, 0.2)
    for step in range(4, 8):
        second.metrics(step, {"loss/total": 1 / step, "new": 1.0})
    assert second.close("FINISHED") == 0
    assert client.get_run(first.run_id).info.status == "FINISHED"
    history = client.get_metric_history(first.run_id, "loss/total")
    assert [(metric.step, metric.value) for metric in history] == [(step, 1 / step) for step in range(1, 8)]
    assert [metric.step for metric in client.get_metric_history(first.run_id, "new")] == [4, 5, 6, 7]
    names = [
        file.path
        for folder in ("start_0", "start_1", "figures")
        for file in client.list_artifacts(first.run_id, folder)
    ]
    assert names == [
        *("start_0/config.yaml", "start_0/environment.json", "start_1/config.yaml", "start_1/environment.json"),
        *("figures/curves.png", "figures/similarities_000000005.png"),
    ]
    assert track(uri, tmp_path / "other", key="storage/other").run_id != first.run_id


def test_a_figure_that_fails_takes_nothing_with_it(tmp_path: Path, log: Log) -> None:
    tracker = track(f"sqlite:///{tmp_path}/mlflow.db", tmp_path / "run")
    tracker.metrics(1, {"loss/total": 1.0})
    tracker.histograms(1, {"unheard_of": [0.5, 0.5]})
    assert tracker.close("FINISHED") == 0
    assert any("figures/similarities_000000001.png cannot be drawn ('unheard_of')" in line for line in log.messages)
    figures = MlflowClient(tracker.uri).list_artifacts(tracker.run_id, "figures")
    assert [file.path for file in figures] == ["figures/curves.png"]


def test_an_address_that_cannot_be_used_is_named_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(
        TrackingError, match=r"tracking.uri: MLflow at http://127.0.0.1:9 cannot be used .*start it, or"
    ):
        track("http://127.0.0.1:9", tmp_path / "run")
    assert time.monotonic() - began < 20  # MLflow by itself tries for four minutes
    with pytest.raises(TrackingError, match=r"expected http://host:port of a server, or sqlite:///path"):
        track("./mlruns", tmp_path / "run")
    (tmp_path / "file").touch()
    with pytest.raises(TrackingError, match=r"MLflow at sqlite:///.*file/mlflow.db cannot be used"):
        track(f"sqlite:///{tmp_path}/file/mlflow.db", tmp_path / "run")


def test_database_files_relative_and_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert resolve_uri("sqlite:///~/mlflow.db") == "sqlite:////home/me/mlflow.db"
    assert resolve_uri("sqlite:///mlflow.db") == f"sqlite:///{Path.cwd()}/mlflow.db"
    assert resolve_uri("http://host:5000") == "http://host:5000"


@contextmanager
def server(folder: Path, port: int, password: str | None = None) -> Iterator[str]:
    """MLflow's server; with a password, `admin` needs it."""
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    options = ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", str(folder / "files")]
    if password is not None:
        (folder / "auth.ini").write_text(
            f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{folder}/auth.db\nadmin_username = admin\n"
        )
        environment |= {
            "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "signs cookies",
        }
        options += ["--app-name", "basic-auth"]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            *options,
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    uri = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while True:
            try:
                urlopen(f"{uri}/health", timeout=1).close()
                break
            except (URLError, OSError):
                assert process.poll() is None, "MLflow's server has ended; it needs what `uv sync` installs"
                assert time.monotonic() < end
                time.sleep(0.2)
        yield uri
    finally:
        family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
        for member in family:
            member.kill()
        psutil.wait_procs(family)


@pytest.mark.slow
def test_a_server_that_goes_away_neither_stops_nor_slows_and_gets_everything(tmp_path: Path, log: Log) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with server(tmp_path, port) as uri:
        tracker = track(uri, tmp_path / "run")
        tracker.metrics(1, {"loss/total": 1.0})
        end = time.monotonic() + 60
        while not MlflowClient(uri).get_metric_history(tracker.run_id, "loss/total"):
            assert time.monotonic() < end
            time.sleep(0.1)
    began = time.monotonic()
    for step in range(2, 300):
        tracker.metrics(step, {"loss/total": 1 / step})
    tracker.histograms(299, {"positives": [0.5, 0.5], "negatives": [0.25, 0.75]})
    assert time.monotonic() - began < 5
    while not log.messages:
        assert time.monotonic() - began < 60
        time.sleep(0.1)
    assert "MLflow is away" in log.messages[0]
    with server(tmp_path, port) as uri:
        assert tracker.close("FINISHED", patience=60) == 0
        client = MlflowClient(uri)
        history = client.get_metric_history(tracker.run_id, "loss/total")
        assert [metric.step for metric in history] == list(range(1, 300))
        figures = client.list_artifacts(tracker.run_id, "figures")
        assert [file.path for file in figures] == ["figures/curves.png", "figures/similarities_000000299.png"]
        assert client.get_run(tracker.run_id).info.status == "FINISHED"
    assert "MLflow is back" in log.messages[1]
