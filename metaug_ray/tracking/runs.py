"""One MLflow run for one training run, across all its restarts."""

import json
import logging
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import mlflow
from filelock import FileLock
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from metaug_ray.errors import UserError
from metaug_ray.tracking.environment import environment, git_state
from metaug_ray.tracking.figures import Series, draw_curves, draw_histograms
from metaug_ray.tracking.journal import Journal, Record, RefusedError

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]

_RUN_TAG = "metaug.run"
_PARAMS_PER_REQUEST = 100
_LONGEST_PARAM = 6000
# What MLflow answers when it is there and means no; everything else is worth another try.
_FINAL = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "INVALID_STATE",
}


class TrackingError(UserError):
    """MLflow cannot be reached, or does not take the run."""


def resolve_uri(uri: str) -> str:
    """A tracking URI with an absolute path: SQLite files may be given relative, or from the home folder on."""
    scheme, separator, rest = uri.partition(":///")
    if scheme == "sqlite" and separator:
        return f"sqlite:///{Path(rest).expanduser().absolute()}"
    return uri


def connect(uri: str, *, new: bool = True) -> MlflowClient:
    """A client of MLflow, which `mlflow`'s functions now talk to as well.

    Args:
        uri: as in :func:`resolve_uri`.
        new: make a database file that is not there.

    Raises:
        TrackingError: MLflow cannot be reached, or its database cannot be opened.
    """
    uri = resolve_uri(uri)
    database = _database(uri)
    if not new and database is not None and not database.exists():
        raise TrackingError(f"tracking.uri: there is no MLflow database {database}; check the path")
    # MLflow would try for four minutes; a journal tries again by itself, and a person is told.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        # Its bars for each file of some kilobytes hide what a user wants to read.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        with _alone(database), warnings.catch_warnings():
            # What MLflow says of making its tables means nothing to a user.
            warnings.simplefilter("ignore")
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
            client = MlflowClient(_prepared(uri))
            client.search_experiments(max_results=1)
    except Exception as error:  # database drivers and HTTP libraries raise errors of their own
        raise TrackingError(
            f"tracking.uri: MLflow at {uri} cannot be used ({reason(error)}); start it, or give another address"
        ) from error
    return client


@contextmanager
def patient() -> Iterator[None]:
    """Give large files time: :func:`connect` asks for answers within seconds."""
    asked = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "600", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3"}
    before = {name: os.environ.get(name) for name in asked}
    os.environ.update(asked)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def now() -> int:
    """Milliseconds since 1970, MLflow's time."""
    return round(1000 * time.time())


def reason(error: BaseException) -> str:
    """The first line of what an error says; of an HTTP library's nested ones, the innermost."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    _, nested, innermost = lines[0].rpartition("(Caused by ")
    return (innermost.removesuffix(")") if nested else innermost)[:300]


class RunTracker:
    """Metrics, settings, figures and states of one training run, sent to MLflow from a thread of its own.

    Opening it needs MLflow; afterwards it may go away for any time: nothing here waits for it but :meth:`close`, and
    what was measured meanwhile arrives later.

    Args:
        uri: of MLflow, as in :func:`resolve_uri`.
        experiment: its name; made where it is not there.
        name: of the run, for people.
        key: what this run is known by: the same key finds the same MLflow run.
        folder: of this machine, for the journal and for files on their way; the same one for each restart.
        say: takes a sentence for the user.

    Raises:
        TrackingError: MLflow cannot be reached, or its database cannot be opened.
    """

    def __init__(
        self, uri: str, experiment: str, name: str, key: str, folder: Path, say: Callable[[str], None]
    ) -> None:
        self.uri = resolve_uri(uri)
        self._folder = folder
        self._client = connect(uri)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.experiment_id = find_experiment(self._client, self.uri, experiment)
            self.run_id = self._run(key, name)
        except (MlflowException, OSError) as error:
            raise TrackingError(f"tracking: MLflow at {self.uri} does not take the run ({reason(error)})") from error
        self._journal = Journal(folder / "journal.jsonl", self._deliver, say, f"{self.uri} {self.run_id}")
        self._latest: dict[str, int] = defaultdict(lambda: -1)
        self._series: Series = defaultdict(list)
        for record in self._journal.read():
            self._remember(record)

    @property
    def series(self) -> Series:
        """All metrics of the run so far."""
        return self._series

    def settings(self, settings: dict[str, Any], fixed: dict[str, Any], yaml: str) -> None:
        """Keep what the run is made with, at each of its starts.

        Args:
            settings: all of them.
            fixed: those that a restart cannot change, nested; logged as parameters.
            yaml: the settings as a file.
        """
        start = sum(record["kind"] == "start" for record in self._journal.read())
        self._journal.append({"kind": "start", "time": time.time()})
        if start == 0:
            self._journal.append({"kind": "params", "values": flat(fixed)})
        self._file(f"start_{start}/config.yaml", yaml)
        self._file(f"start_{start}/environment.json", json.dumps(environment() | {"settings": settings}, indent=2))
        git = git_state()
        tags = {"metaug.starts": str(start + 1)} | ({"mlflow.source.git.commit": git["commit"]} if git else {})
        self.tags(tags)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Values after `step` steps. What an earlier start already measured at this step or later is left out."""
        record = {"kind": "metrics", "step": step, "time": time.time()}
        new = {name: value for name, value in values.items() if step > self._latest[name]}
        if new:
            record["values"] = new
            self._remember(record)
            self._journal.append(record)

    def histograms(self, step: int, histograms: dict[str, list[float]]) -> None:
        """A figure of similarity histograms after `step` steps, and the curves so far."""
        name = f"figures/similarities_{step:09d}.png"
        path = self._path(name)
        draw_histograms(histograms, step, path)
        self._journal.append({"kind": "file", "name": name})
        self.curves()

    def curves(self) -> None:
        """The figure of losses, similarities and kNN accuracy so far."""
        if draw_curves(self._series, self._path("figures/curves.png")):
            self._journal.append({"kind": "file", "name": "figures/curves.png"})

    def tags(self, tags: dict[str, str]) -> None:
        """Tags of the run, such as the place of its last checkpoint."""
        self._journal.append({"kind": "tags", "values": tags})

    def close(self, status: RunStatus, patience: float = 60.0) -> int:
        """End the run, after up to `patience` seconds for sending what is left.

        Returns:
            How many records could not be sent. They are kept, and sent when the run is started again.
        """
        self._journal.append({"kind": "status", "status": status, "time": time.time()})
        return self._journal.close(patience)

    def _run(self, key: str, name: str) -> str:
        quoted = key.replace("'", "")
        found = self._client.search_runs([self.experiment_id], f"tags.`{_RUN_TAG}` = '{quoted}'", max_results=1)
        if found:
            run_id = str(found[0].info.run_id)
            self._client.update_run(run_id, status="RUNNING")
            return run_id
        run = self._client.create_run(self.experiment_id, run_name=name, tags={_RUN_TAG: quoted})
        return str(run.info.run_id)

    def _path(self, name: str) -> Path:
        path = self._folder / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _file(self, name: str, text: str) -> None:
        self._path(name).write_text(text, encoding="utf-8")
        self._journal.append({"kind": "file", "name": name})

    def _remember(self, record: Record) -> None:
        if record["kind"] == "metrics":
            for name, value in record["values"].items():
                self._latest[name] = max(self._latest[name], record["step"])
                self._series[name].append((record["step"], value))

    def _deliver(self, records: list[Record]) -> None:
        try:
            metrics = [
                Metric(name, value, round(1000 * record["time"]), record["step"])
                for record in records
                if record["kind"] == "metrics"
                for name, value in record["values"].items()
            ]
            for start in range(0, len(metrics), 1000):
                self._client.log_batch(self.run_id, metrics=metrics[start : start + 1000])
            for record in records:
                self._deliver_other(record)
        except MlflowException as error:
            if error.error_code in _FINAL:
                raise RefusedError(str(error)) from error
            raise

    def _deliver_other(self, record: Record) -> None:
        match record["kind"]:
            case "params":
                log_params(self._client, self.run_id, record["values"])
            case "tags":
                self._client.log_batch(self.run_id, tags=[RunTag(*tag) for tag in record["values"].items()])
            case "file":
                folder, _, _ = record["name"].rpartition("/")
                file = self._folder / "files" / record["name"]
                if not file.exists():
                    raise RefusedError(f"{file} was deleted")
                self._client.log_artifact(self.run_id, str(file), folder)
            case "status":
                self._client.set_terminated(self.run_id, record["status"], round(1000 * record["time"]))
            case "start":
                self._client.update_run(self.run_id, status="RUNNING")


def download_figures(uri: str, run_id: str, folder: Path) -> list[Path]:
    """A training run's curves and its last similarity histogram, as far as MLflow has them.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    client = connect(uri)
    try:
        names = sorted(file.path for file in client.list_artifacts(run_id, "figures"))
        histograms = [name for name in names if "similarities_" in name]
        wanted = [name for name in names if name.endswith("curves.png")] + histograms[-1:]
        return [Path(client.download_artifacts(run_id, name, str(folder))) for name in wanted]
    except Exception as error:  # artifact stores raise errors of their own
        raise TrackingError(f"tracking: MLflow at {uri} does not give the run's figures ({reason(error)})") from error


def find_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The id of an experiment; it is made where it is not there.

    Raises:
        MlflowException: MLflow refuses.
    """
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    path = _database(resolve_uri(uri))
    location = None if path is None else (path.parent / "mlartifacts" / name).as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        # Another run may have made it in between.
        found = client.get_experiment_by_name(name)
        if found is None:
            raise
        return str(found.experiment_id)


_SERVERS = ("http", "https", "databricks", "postgresql", "mysql", "mssql")


def _prepared(uri: str) -> str:
    """The URI, which `mlflow`'s functions now use; one that MLflow would take for a folder is refused."""
    if _database(uri) is None and urlsplit(uri).scheme not in _SERVERS:
        raise ValueError("expected http://host:port of a server, or sqlite:///path of a database file")
    mlflow.set_tracking_uri(uri)
    return uri


@contextmanager
def _alone(database: Path | None) -> Iterator[None]:
    """Keep other processes of this machine from a database file: MLflow makes its tables at the first call, and two at
    once would break one another's."""
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    # Whoever may only read makes no tables.
    if database is None or not os.access(database.parent, os.W_OK):
        yield
        return
    with FileLock(database.with_name(f".{database.name}.lock"), timeout=120):
        yield


def _database(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def log_params(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    """In as many requests as MLflow wants."""
    params = [Param(name, value) for name, value in values.items()]
    for start in range(0, len(params), _PARAMS_PER_REQUEST):
        client.log_batch(run_id, params=params[start : start + _PARAMS_PER_REQUEST])


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by dotted names, as MLflow's strings."""
    named: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            named |= flat(value, f"{prefix}{name}.")
        else:
            named[prefix + name] = str(value)[:_LONGEST_PARAM]
    return named
