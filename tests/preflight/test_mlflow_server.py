import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from metaug_ray.config import TrackingSettings
from metaug_ray.preflight.mlflow_server import check_mlflow
from metaug_ray.tracking.connection import connect, find_experiment
from tests.data.nobody import as_nobody, needs_root
from tests.preflight.nodes import the_fault


@pytest.fixture
def tracking(mlflow_database: Path, tmp_path: Path) -> TrackingSettings:
    shutil.copy(mlflow_database, tmp_path)
    return TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db", experiment="mine")


def content(database: Path) -> str:
    with sqlite3.connect(database) as connection:
        return "\n".join(connection.iterdump())


def test_an_experiment_that_is_there_is_tried_without_a_trace(tracking: TrackingSettings, tmp_path: Path) -> None:
    find_experiment(connect(tracking.uri), tracking.uri, "mine")
    files, before = sorted(tmp_path.rglob("*")), content(tmp_path / "mlflow.db")
    found = check_mlflow(tracking)
    assert [(finding.check, finding.verdict) for finding in found] == [("MLflow", "ok"), ("MLflow's artifacts", "ok")]
    assert content(tmp_path / "mlflow.db") == before
    assert sorted(tmp_path.rglob("*")) == files


def test_what_is_not_there_yet_is_not_made(tracking: TrackingSettings, tmp_path: Path) -> None:
    before = content(tmp_path / "mlflow.db")
    (found,) = check_mlflow(tracking)
    assert (found.verdict, found.measured.endswith("experiment 'mine' will be made")) == ("ok", True)
    assert content(tmp_path / "mlflow.db") == before
    (found,) = check_mlflow(TrackingSettings(uri=f"sqlite:///{tmp_path}/not/there.db"))
    assert (found.verdict, found.measured) == ("ok", f"{tmp_path}/not/there.db will be made")
    assert not (tmp_path / "not").exists()


def test_an_experiment_that_was_deleted(tracking: TrackingSettings) -> None:
    client = connect(tracking.uri)
    client.delete_experiment(find_experiment(client, tracking.uri, "mine"))
    found = the_fault(check_mlflow(tracking))
    assert "was deleted" in found.measured
    assert "mlflow experiments restore" in found.advice


@needs_root
def test_a_database_that_cannot_be_written_or_made(tracking: TrackingSettings, tmp_path: Path) -> None:
    assert "cannot be written" in as_nobody(tmp_path, lambda: check_mlflow(TrackingSettings(uri=tracking.uri + ".new")))
    said = as_nobody(tmp_path, lambda: check_mlflow(tracking))
    assert "readonly database" in said


def test_artifacts_that_cannot_be_written(tracking: TrackingSettings, tmp_path: Path) -> None:
    find_experiment(connect(tracking.uri), tracking.uri, "mine")
    (tmp_path / "mlartifacts").touch()
    found = the_fault(check_mlflow(tracking))
    assert (found.check, "credentials" in found.advice) == ("MLflow's artifacts", True)


def test_a_server_that_is_not_there() -> None:
    found = the_fault(check_mlflow(TrackingSettings(uri="http://127.0.0.1:9")))
    assert "Connection refused" in found.measured
    assert found.advice.startswith("start it")


@pytest.mark.parametrize(
    ("status", "advice"), [(401, "set MLFLOW_TRACKING_USERNAME"), (403, "ask who runs MLflow for the right")]
)
def test_a_server_that_refuses(status: int, advice: str) -> None:
    with refusing(status) as address:
        found = the_fault(check_mlflow(TrackingSettings(uri=address)))
    assert found.advice.startswith(advice), found


@contextmanager
def refusing(status: int) -> Iterator[str]:
    """Address of a server that answers everything as MLflow's with passwords does where they are wrong."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._refuse()

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self._refuse()

        def _refuse(self) -> None:
            text = b"You are not authenticated." if status == 401 else b"Permission denied"
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
