"""One MLflow run for one training run, across all its restarts."""

import json
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, assert_never

from mlflow.entities import LifecycleStage, Metric, RunTag
from mlflow.exceptions import MlflowException

from metaug_ray.names import quoted
from metaug_ray.tracking.connection import (
    connect,
    find_experiment,
    flat,
    log_params,
    moved_files,
    reason,
    resolve_uri,
)
from metaug_ray.tracking.environment import environment, git_state
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.tracking.figures import Series, draw_curves, draw_histograms
from metaug_ray.tracking.journal import Journal, RefusedError
from metaug_ray.tracking.records import Ended, File, Metrics, Params, Record, RunStatus, Started, Tags

_log = logging.getLogger(__name__)
_RUN_TAG: Final = "metaug.run"
PARENT_TAG: Final = "mlflow.parentRunId"
"""Of a run that is part of another, in MLflow's own words."""
# What MLflow answers when it is there and means no; everything else is worth another try.
_FINAL: Final = {
    "INVALID_PARAMETER_VALUE",
    "BAD_REQUEST",
    "RESOURCE_DOES_NOT_EXIST",
    "RESOURCE_ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "INVALID_STATE",
}


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

    Raises:
        TrackingError: MLflow cannot be reached, or its database cannot be opened.
    """

    def __init__(self, uri: str, experiment: str, name: str, key: str, folder: Path) -> None:
        self.uri = resolve_uri(uri)
        self._folder = folder
        self._client = connect(uri)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.experiment_id = find_experiment(self._client, self.uri, experiment)
            self.run_id = self._run(key, name)
        except TrackingError:
            raise
        except (MlflowException, OSError) as error:
            raise TrackingError(f"tracking: MLflow at {self.uri} does not take the run ({reason(error)})") from error
        self._journal = Journal(folder / "journal.jsonl", self._deliver, f"{self.uri} {self.run_id}")
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
        start = sum(isinstance(record, Started) for record in self._journal.read())
        self._journal.append(Started(time.time()))
        if start == 0:
            self._journal.append(Params(flat(fixed)))
        self.file(f"start_{start}/config.yaml", yaml)
        self.file(f"start_{start}/environment.json", json.dumps(environment() | {"settings": settings}, indent=2))
        git = git_state()
        tags = {"metaug.starts": str(start + 1)} | ({"mlflow.source.git.commit": git["commit"]} if git else {})
        self.tags(tags)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Values after `step` steps. What an earlier start already measured at this step or later is left out."""
        new = {name: value for name, value in values.items() if step > self._latest[name]}
        if new:
            record = Metrics(step, time.time(), new)
            self._remember(record)
            self._journal.append(record)

    def histograms(self, step: int, histograms: Mapping[str, Sequence[float]]) -> None:
        """A figure of similarity histograms after `step` steps, and the curves so far."""
        self._figure(f"figures/similarities_{step:09d}.png", partial(draw_histograms, histograms, step))
        self.curves()

    def curves(self) -> None:
        """The figure of losses, similarities, kNN accuracy and RankMe so far."""
        self._figure("figures/curves.png", partial(draw_curves, self._series))

    def _figure(self, name: str, draw: Callable[[Path], bool | None]) -> None:
        """Draw a figure and send it, unless it says False: there was nothing to draw. One that fails takes nothing else
        of the run with it."""
        try:
            drawn = draw(self._path(name))
        except Exception as error:  # whatever matplotlib or the disk raises
            _log.warning("%s cannot be drawn (%s); the measurements are kept all the same", name, reason(error))
            return
        if drawn is not False:
            self._journal.append(File(name))

    def file(self, name: str, content: str | bytes) -> None:
        """A file of the run, under a name with slashes for folders."""
        try:
            self._path(name).write_bytes(content.encode() if isinstance(content, str) else content)
        except OSError as error:
            _log.warning("%s cannot be written (%s), and is left out of the run in MLflow", name, error)
            return
        self._journal.append(File(name))

    def tags(self, tags: dict[str, str]) -> None:
        """Tags of the run, such as the place of its last checkpoint."""
        self._journal.append(Tags(tags))

    def close(self, status: RunStatus, patience: float = 60.0) -> int:
        """End the run, after up to `patience` seconds for sending what is left.

        Returns:
            How many records could not be sent. They are kept, and sent when the run is started again.
        """
        self._journal.append(Ended(status, time.time()))
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

    def _remember(self, record: Record) -> None:
        if isinstance(record, Metrics):
            for name, value in record.values.items():
                self._latest[name] = max(self._latest[name], record.step)
                self._series[name].append((record.step, value))

    def _deliver(self, records: Sequence[Record]) -> None:
        try:
            metrics = [
                Metric(name, value, round(1000 * record.time), record.step)
                for record in records
                if isinstance(record, Metrics)
                for name, value in record.values.items()
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
        match record:
            case Params(values):
                log_params(self._client, self.run_id, values)
            case Tags(values):
                self._client.log_batch(self.run_id, tags=[RunTag(*tag) for tag in values.items()])
            case File(name):
                folder, _, _ = name.rpartition("/")
                files = self._folder / "files"
                file = files / name
                if not file.resolve().is_relative_to(files.resolve()):
                    raise RefusedError(f"{quoted(name)} is no file of {files}")
                if not file.exists():
                    raise RefusedError(f"{file} was deleted")
                self._client.log_artifact(self.run_id, str(file), folder)
            case Ended(status, moment):
                self._client.set_terminated(self.run_id, status, round(1000 * moment))
            case Started():
                self._client.update_run(self.run_id, status="RUNNING")
            case Metrics():
                pass  # sent before, in batches
            case _:
                assert_never(record)


def running_parts(uri: str, experiment_id: str, parent: str) -> dict[str, str]:
    """Ids, by name, of the runs below a parent that run, as far as MLflow knows.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    query = f"tags.`{PARENT_TAG}` = '{parent}' and attributes.status = 'RUNNING'"
    try:
        found = connect(uri).search_runs([experiment_id], query, max_results=1000)
    except MlflowException as error:
        raise TrackingError(f"tracking: MLflow at {uri} does not search ({reason(error)})") from error
    return {str(run.info.run_name): str(run.info.run_id) for run in found}


def end_run(uri: str, run_id: str, status: RunStatus) -> None:
    """Give a run whose process is gone its state.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    try:
        connect(uri).set_terminated(run_id, status)
    except MlflowException as error:
        raise TrackingError(f"tracking: MLflow at {uri} does not end run {run_id} ({reason(error)})") from error


def find_run(uri: str, key: str, recorded: str | None = None) -> str | None:
    """The MLflow run of a training run, in whatever experiment it is; None where this MLflow does not know it.

    Args:
        uri: of MLflow.
        key: of the run, as its `RunTracker` had it.
        recorded: what the run's record says, which counts if this MLflow has it.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    client = connect(uri)
    query = f"tags.`{_RUN_TAG}` = '{key.replace(chr(39), '')}'"
    try:
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, query, order_by=["start_time DESC"], max_results=1)
    except MlflowException as error:
        raise TrackingError(f"tracking: MLflow at {uri} does not search ({reason(error)})") from error
    if found:
        return str(found[0].info.run_id)
    try:
        active = recorded is not None and client.get_run(recorded).info.lifecycle_stage == LifecycleStage.ACTIVE
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise TrackingError(f"tracking: MLflow at {uri} does not give run {recorded} ({reason(error)})") from error
    return recorded if active else None


def download_figures(uri: str, run_id: str, folder: Path) -> list[Path]:
    """A training run's curves and its last similarity histogram, as far as MLflow has them.

    Raises:
        TrackingError: MLflow cannot be reached, or its database was moved without its files.
    """
    client = connect(uri)
    try:
        if moved := moved_files(uri, client.get_run(run_id).info.artifact_uri):
            raise TrackingError(f"tracking.uri: {moved}")
        names = sorted(file.path for file in client.list_artifacts(run_id, "figures"))
        histograms = [name for name in names if "similarities_" in name]
        wanted = [name for name in names if name.endswith("curves.png")] + histograms[-1:]
        return [Path(client.download_artifacts(run_id, name, str(folder))) for name in wanted]
    except TrackingError:
        raise
    except Exception as error:  # artifact stores raise errors of their own
        raise TrackingError(f"tracking: MLflow at {uri} does not give the run's figures ({reason(error)})") from error
