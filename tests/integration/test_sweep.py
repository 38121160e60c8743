"""A sweep that loses a worker, MLflow and its driver, and is given the same command again."""

import csv
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import mlflow
import psutil
import pytest
import torch
import yaml
from mlflow.tracking import MlflowClient

from metaug_ray.commands.pretrain import parse
from metaug_ray.config import EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.data.prepare import prepare
from metaug_ray.tracking.connection import connect
from metaug_ray.tracking.errors import TrackingError
from tests.integration.jobs import Job, workers_of
from tests.security.planted import SECRETS, leaks
from tests.tracking.test_runs import server
from tests.training.small import small_settings

pytestmark = pytest.mark.slow


class Line:
    """A connection to a server with passwords, which keeps what it has in a folder. It may be cut for a while."""

    def __init__(self, port: int, folder: Path) -> None:
        self._to, self.cut, self.folder = port, False, folder
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            here, _ = self._socket.accept()
            if self.cut:
                here.close()
                continue
            there = socket.create_connection(("127.0.0.1", self._to))
            for ends in ((here, there), (there, here)):
                threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while (data := source.recv(65536)) and not self.cut:
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("mlflow")
    with server(folder, port, SECRETS["MLFLOW_TRACKING_PASSWORD"]):
        yield Line(port, folder)


def trials(folder: Path) -> dict[str, dict[str, object]]:
    """What the sweep keeps of its runs, by name."""
    file = folder / "runs/sweep/trials.json"
    content = json.loads(file.read_text()) if file.exists() else {"points": [], "finals": []}
    return {
        run["name"]: run for run in [*(r for point in content["points"] for r in point["runs"]), *content["finals"]]
    }


def test_mlflow_takes_nobody_without_a_password(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"http://127.0.0.1:{line.port}"
    for path in ("api/2.0/mlflow/experiments/search?max_results=1", "api/2.0/mlflow-artifacts/artifacts", ""):
        with pytest.raises(HTTPError) as caught:
            urlopen(f"{uri}/{path}", timeout=10)
        assert caught.value.code == 401, path
    for name, value in (("MLFLOW_TRACKING_PASSWORD", "wrong"), ("MLFLOW_TRACKING_USERNAME", "")):
        monkeypatch.setenv(name, value)
        with pytest.raises(
            TrackingError, match=rf"tracking.uri: MLflow at {uri} cannot be used .*MLFLOW_TRACKING_PASS"
        ):
            connect(uri)


def test_a_sweep_loses_a_worker_mlflow_and_its_driver(
    ray_session: tuple[str, Path], line: Line, shapes_beton: Path, tmp_path: Path
) -> None:
    address, session = ray_session
    judge = tmp_path / "judge.beton"
    source = SourceSettings(kind="shapes", count=48, size=32, seed=2)
    prepare(PrepareSettings(source=source, encoding=EncodingSettings(preset="small"), output=judge, workers=1))
    run = small_settings(
        shapes_beton,
        name="sweep",
        storage=str(tmp_path / "runs"),
        training={"epochs": 3},
        compute={"address": address, "workers": 1},
        checkpoint={"every_steps": 5},
        health={"knn": {"every": 1}},
        tracking={"uri": f"http://127.0.0.1:{line.port}"},
        register_as="searched",
    ).model_dump(mode="json")
    sweep = {
        "space": {"method.unified.beta": {"log_uniform": [2, 64]}, "method.delta": {"choice": [0.1, 0.01]}},
        "search": {"trials": 2, "concurrency": 2},
        "compare": {"judge": str(judge), "seeds": 1},
    }
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(run | sweep))
    environment = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"}

    job = Job("tune_hyperparameters.py", tmp_path, "--sweep", str(file), environment=environment)
    job.wait_until(lambda: any(found["series"] for found in trials(tmp_path).values()))
    # One worker of the two runs; its run goes on from its own checkpoint.
    workers_of(session)[0].kill()
    line.cut = True
    job.wait_until(lambda: any(len(found["series"]) > 1 for found in trials(tmp_path).values()))  # type: ignore[arg-type]
    line.cut = False
    job.wait_until(lambda: any(found["state"] == "finished" for found in trials(tmp_path).values()))
    before = trials(tmp_path)
    job.process.kill()
    job.finish()
    psutil.wait_procs(workers_of(session), timeout=30)
    assert not workers_of(session)

    assert not leaks(job.output)
    again = Job("tune_hyperparameters.py", tmp_path, "--sweep", str(file), environment=environment)
    assert again.finish() == 0, again.output
    after = trials(tmp_path)
    assert len(after) == 3
    assert all(found["state"] == "finished" for found in after.values()), after
    assert all([epoch for epoch, _ in found["series"]] == [1, 2, 3] for found in after.values())  # type: ignore[attr-defined]
    # What had been measured is what it was, and what was finished was not made again.
    for name, found in before.items():
        assert after[name]["series"][: len(found["series"])] == found["series"]  # type: ignore[index,arg-type]
        if found["state"] == "finished":
            assert f"run {name} started" not in again.output
    assert any(found["judged"] for found in after.values())

    client = MlflowClient(f"http://127.0.0.1:{line.port}")
    runs = client.search_runs(["1"], max_results=100)
    (parent,) = (found for found in runs if found.info.run_name == "sweep")
    children = [found for found in runs if found.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(found.info.run_name for found in children) == sorted(after)
    assert {found.info.status for found in [parent, *children]} == {"FINISHED"}
    for child in children:
        history = client.get_metric_history(child.info.run_id, "loss/total")
        assert sorted(metric.step for metric in history) == list(range(1, 19))

    report = tmp_path / "runs/sweep/report"
    with (report / "trials.csv").open() as table:
        assert {row["run"]: row["state"] for row in csv.DictReader(table)} == dict.fromkeys(after, "finished")
    best = max(
        (found for found in after.values() if found["purpose"] == "search"), key=lambda found: found["series"][-1][1]
    )  # type: ignore[index]
    settings, _ = parse(["--config", str(report / "best.yaml")])
    assert settings.name == "sweep-best"
    mlflow.set_tracking_uri(f"http://127.0.0.1:{line.port}")
    encoder = mlflow.pytorch.load_model("models:/searched/1", map_location="cpu")
    assert encoder(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape[0] == 2
    assert client.get_model_version("searched", "1").tags["metaug.run"] == best["name"]

    # The user's secrets are in the environment of all that has run, and nowhere else.
    assert not leaks(again.output, tmp_path, line.folder, session)
