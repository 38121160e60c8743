"""`cluster/local`: a head and MLflow on this machine, by one command each way."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest

from tests.cluster.documents import ROOT, project

LOCAL = ROOT / "cluster" / "local"


@pytest.fixture(scope="module")
def services() -> Iterator[ModuleType]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(LOCAL))
        yield import_module("services")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cluster"


def cluster(folder: Path, command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CLUSTER_", "MLFLOW_"))}
    return subprocess.run(
        [sys.executable, str(LOCAL / "cluster.py"), command],
        env=environment | {"CLUSTER_FOLDER": str(folder)} | variables,
        capture_output=True,
        text=True,
    )


def server(services: ModuleType, folder: Path, code: str, answers: bool = True) -> Any:
    folder.mkdir(exist_ok=True)
    return services.Service("server", folder, "", lambda: [sys.executable, "-c", code], {}, lambda: answers)


CHILD = "import subprocess, sys; subprocess.Popen(['sleep', '600']); print('up', flush=True); "
"""A server with a child that it does not end."""


def child_of(service: Any) -> psutil.Process:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        if children := service.process().children():
            return children[0]
        time.sleep(0.01)
    raise AssertionError("the server has no child")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"CLUSTER_MLFLOW_PORTS": "5001"}, "CLUSTER_MLFLOW_PORTS is no setting; did you mean CLUSTER_MLFLOW_PORT?"),
        ({"CLUSTER_RAY_PORT": "8265"}, "CLUSTER_RAY_PORT and CLUSTER_DASHBOARD_PORT are both 8265; give each a port"),
    ],
)
def test_wrong_variables_are_named_at_once(folder: Path, variables: dict[str, str], message: str) -> None:
    done = cluster(folder, "start", **variables)
    assert done.returncode != 0
    assert message in done.stderr
    assert not folder.exists()


@pytest.mark.parametrize("killed", [False, True])
def test_a_server_ends_with_what_it_started(services: ModuleType, folder: Path, killed: bool) -> None:
    service = server(services, folder, CHILD + "sys.stdin.close(); import time; time.sleep(600)")
    service.start()
    child = child_of(service)
    assert service.process() is not None
    if killed:
        leader = service.process()
        leader.kill()
        leader.wait(10)
        assert service.process() is None
        assert child.is_running()
    assert service.stop()
    assert not child.is_running()
    assert service.process() is None
    assert not service.stop()


def test_another_process_of_the_same_number_is_left_alone(services: ModuleType, folder: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            service = server(services, folder, "")
            (folder / "server.pid").write_text(json.dumps({"pid": other.pid, "began": time.time() - 1000}))
            assert service.process() is None
            assert not service.stop()
            assert other.poll() is None
        finally:
            other.kill()


def test_a_server_that_ends_is_told_with_its_last_words(services: ModuleType, folder: Path) -> None:
    service = server(services, folder, "print('no such database')", answers=False)
    service.start()
    with pytest.raises(services.ServiceError, match=r"server ended while it started(.|\n)*no such database"):
        services.wait_until_ready([service], 20)


def test_a_server_that_does_not_answer_is_not_waited_for_any_longer(services: ModuleType, folder: Path) -> None:
    service = server(services, folder, "import time; time.sleep(600)", answers=False)
    service.start()
    try:
        with pytest.raises(services.ServiceError, match="server does not answer after 0 s"):
            services.wait_until_ready([service], 0.3)
    finally:
        service.stop()


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"CLUSTER_RAY_PORT": "http"}, "CLUSTER_RAY_PORT is http; expected a number"),
        ({"CLUSTER_MLFLOW_PORT": "65536"}, "CLUSTER_MLFLOW_PORT is 65536"),
        (
            {"MLFLOW_BACKEND_STORE_URI": "postgresql://mlflow:planted-secret@db/mlflow"},
            "MLFLOW_BACKEND_STORE_URI holds a password",
        ),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(variables: dict[str, str], said: str, folder: Path) -> None:
    ended = cluster(folder, "start", **variables)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert "planted-secret" not in ended.stderr
    assert not folder.exists()


def test_what_mlflow_needs_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LOCAL))
    settings = import_module("settings")
    monkeypatch.setattr(settings, "find_spec", lambda module: None)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://mlflow@db/mlflow")
    monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", "s3://mlflow")
    with pytest.raises(settings.ServiceError, match=r"psycopg2 and boto3 is not installed.*uv run --group server"):
        settings.read_settings()


def test_two_starts_do_not_meet(folder: Path) -> None:
    from filelock import FileLock

    folder.mkdir()
    with FileLock(folder / "lock"):
        ended = cluster(folder, "start")
    assert ended.returncode == 1
    assert "another start or stop is at work" in ended.stderr


def mark_of(folder: Path, process: psutil.Process, service: str = "") -> bool:
    with suppress(psutil.Error):
        return bool(process.environ().get("CLUSTER_LOCAL_SERVICE", "").startswith(f"{folder}:{service}"))
    return False


def test_postgresql_is_reached_by_the_driver_that_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(LOCAL))
    settings = import_module("settings")
    monkeypatch.setattr(settings, "find_spec", lambda module: module)
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", "postgresql://mlflow@db/mlflow")
    assert settings.read_settings().database == "postgresql+psycopg2://mlflow@db/mlflow"
    assert "psycopg2-binary" in " ".join(map(str, project()["dependency-groups"]["server"]))


@pytest.mark.slow
def test_it_starts_answers_and_stops(services: ModuleType, folder: Path) -> None:
    ports = {f"CLUSTER_{name}_PORT": str(services.free_port()) for name in ("RAY", "DASHBOARD", "MLFLOW")}
    dashboard = f"http://127.0.0.1:{ports['CLUSTER_DASHBOARD_PORT']}/api/version"

    def run(command: str) -> subprocess.CompletedProcess[str]:
        return cluster(folder, command, CLUSTER_START_SECONDS="300", PGPASSWORD="x", RAY_AUTH_TOKEN="x", **ports)

    try:
        started = run("start")
        assert started.returncode == 0, started.stderr
        token = (folder / "token").read_text()
        assert (folder / "token").stat().st_mode & 0o777 == 0o600
        assert services.answers(dashboard, {"Authorization": f"Bearer {token}"})
        assert not services.answers(dashboard, {"Authorization": "Bearer wrong"})
        assert not services.answers(dashboard)
        addresses = [f"http://127.0.0.1:{ports[f'CLUSTER_{name}_PORT']}" for name in ("MLFLOW", "DASHBOARD")]
        assert run("status").stdout == f"mlflow: answers, {addresses[0]}\nray: answers, {addresses[1]}\n"
        elsewhere = cluster(folder, "start", **ports | {"CLUSTER_MLFLOW_PORT": "1"})
        assert "mlflow runs, and does not answer at http://127.0.0.1:1" in elsewhere.stderr
        again = run("start")
        assert again.stdout.startswith("The cluster runs already.")

        # Somebody else's start on the same ports, and with nothing left of it.
        other = cluster(folder.with_name("other"), "start", **ports)
        assert other.returncode == 1
        assert f"port {ports['CLUSTER_RAY_PORT']}, for ray, cannot be had" in other.stderr
        assert not list(folder.with_name("other").glob("*.pid"))

        head = next(process for process in map(psutil.Process, psutil.pids()) if mark_of(folder, process, "ray"))
        assert head.environ().keys().isdisjoint({"PGPASSWORD", "RAY_AUTH_TOKEN"})
        ours = [process for process in psutil.process_iter() if mark_of(folder, process)]
        assert {"raylet", "gcs_server"} <= {process.name() for process in ours}
        told = [*started.stdout.splitlines(), *again.stdout.splitlines(), *(" ".join(p.cmdline()) for p in ours)]
        logs = [file.read_text(errors="replace") for file in folder.rglob("*.log")]
        assert not any(token in text for text in told + logs)
    finally:
        stopped = run("stop")
    assert stopped.stdout.startswith("ray and mlflow ended")
    assert not [process.name() for process in psutil.process_iter() if mark_of(folder, process)]
    assert not (folder / "session").exists()
    assert (folder / "logs" / "ray" / "gcs_server.out").exists()
    assert run("stop").stdout == f"Nothing runs that was started with {folder}.\n"
