"""One pre-training run, from the driver: checked, started, watched and brought to its end."""

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import yaml
from ray.train import (
    CheckpointConfig,
    ControllerError,
    FailureConfig,
    Result,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
)
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue

from metaug_ray.config import PretrainSettings
from metaug_ray.data.manifest import Manifest
from metaug_ray.data.staging import find_manifest
from metaug_ray.tracking.runs import RunStatus, RunTracker, connect
from metaug_ray.training.cluster import cluster, nodes, say_if_busy
from metaug_ray.training.errors import TrainingError
from metaug_ray.training.messages import describe_failures, listening
from metaug_ray.training.monitor import ControllerMessages, Monitor
from metaug_ray.training.placement import Placement, place
from metaug_ray.training.progress_line import counted, duration
from metaug_ray.training.resume import check_resumable, fixed_settings
from metaug_ray.training.run_folder import RunFolder
from metaug_ray.training.worker import STOPPED, run_worker

_HOME = Path("~/metaug_ray").expanduser()


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        name: of the run.
        location: its folder or URI.
        checkpoints: whole ones, oldest first.
        random_knn: kNN accuracy of the encoders before training; None without labels.
        trained_knn: and after it.
        tracking_uri, experiment_id, run_id: where MLflow has it.
        unsent: records that MLflow has not got yet, because it is away.
    """

    name: str
    location: str
    checkpoints: list[str]
    random_knn: float | None
    trained_knn: float | None
    tracking_uri: str
    experiment_id: str
    run_id: str
    unsent: int = 0


def say(text: str) -> None:
    """Print a line to the job's log at once."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def pretrain(settings: PretrainSettings) -> Outcome:
    """Train to the end, or go on with the run of this name.

    Whatever can be known to be wrong is found before a worker starts.

    Raises:
        TrainingError: settings, storage or cluster do not allow the run, or workers failed more often than allowed.
        DataError: the beton is missing or broken.
        TrackingError: MLflow cannot be reached at the start.
    """
    manifest = find_manifest(settings.data.beton)
    _check_knn(settings, manifest)
    folder = RunFolder(settings.checkpoint.storage, settings.name)
    folder.make()
    lock = folder.lock()
    try:
        return _pretrain(settings, folder, manifest)
    finally:
        folder.remove_if_unused()
        if lock is not None:
            lock.release()


def _pretrain(settings: PretrainSettings, folder: RunFolder, manifest: Manifest) -> Outcome:
    record = folder.record
    if record is None:
        record = {
            # The same name in the same place may be another run, after its folder was deleted.
            "id": uuid.uuid4().hex,
            "fork": settings.fork,
            "settings": settings.model_dump(mode="json"),
            "fixed": fixed_settings(settings),
            "data": {"beton": settings.data.beton, "sha256": manifest.sha256, "samples": manifest.samples},
        }
    else:
        check_resumable(record, settings, manifest.sha256)
    # Before a cluster is joined or started for nothing.
    connect(settings.tracking.uri)
    if "finished" in record:
        with _tracked(settings, folder, record) as tracked:
            say(f"run {settings.name!r} is finished already; give another --name to train again")
        return tracked.outcome()
    fork = None if folder.checkpoints() or record["fork"] is None else _fork(settings, record["fork"], manifest)
    # An elastic run is better off with fewer workers than with a long wait for one that is lost.
    with cluster(settings.compute.address, start_timeout=60 if settings.compute.min_workers else 300):
        placement = place(settings, nodes(), manifest.samples)
        with _tracked(settings, folder, record) as tracked:
            tracker = tracked.tracker
            record |= {"mlflow": {"uri": tracker.uri, "run_id": tracker.run_id}}
            folder.write_record(record)
            tracker.settings(
                settings.model_dump(mode="json"), record["fixed"] | {"data.sha256": manifest.sha256}, to_yaml(settings)
            )
            say(_announcement(settings, manifest, placement, folder, tracker))
            for name in folder.remove_unfinished():
                say(f"removed {name}, which was not written to its end")
            folder.keep_best_of_all()
            folder.count_start(None)
            say_if_busy(placement, say)
            say("starting the workers; a minute or so passes before the first step")
            _fit(settings, folder, tracker, placement, record, fork)
            folder.remove_unfinished()
            folder.write_record(record | {"finished": time.time()})
            tracker.curves()
    return tracked.outcome()


def to_yaml(settings: PretrainSettings) -> str:
    """All settings, as a file that `--config` takes."""
    text: str = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
    return text


def _check_knn(settings: PretrainSettings, manifest: Manifest) -> None:
    queries = settings.health.knn_beton
    if queries is None or not settings.health.knn_every:
        return
    if not manifest.classes:
        raise TrainingError(
            f"health.knn_beton: {settings.data.beton} has no labels that could vote; leave health.knn_beton out"
        )
    other = find_manifest(queries)
    if other.classes != manifest.classes:
        raise TrainingError(
            f"health.knn_beton: {queries} has {len(other.classes)} classes ({', '.join(other.classes[:3])}...), and "
            f"{settings.data.beton} {len(manifest.classes)} ({', '.join(manifest.classes[:3])}...); give the same ones"
        )


def _fork(settings: PretrainSettings, name: str, manifest: Manifest) -> dict[str, str]:
    """Where a warm start finds its weights, and which of them fit."""
    other = RunFolder(settings.checkpoint.storage, name)
    record, names = other.record, other.checkpoints()
    if record is None or not names:
        raise TrainingError(f"fork: {other.location} is no run with a checkpoint; give the name of one")
    old, new = record["fixed"]["model"], fixed_settings(settings)["model"]
    if old != new:
        raise TrainingError(f"fork: the networks of {name!r} are others: {old}, not {new}; keep model.* as it was")
    method, size = record["fixed"]["method"], "generator_hidden_size"
    generators = method["generators"] and method[size] == settings.method.generator_hidden_size
    return {
        "storage": settings.checkpoint.storage,
        "name": name,
        "checkpoint": names[-1],
        "bank": "same" if record["data"]["sha256"] == manifest.sha256 else "new",
        "generators": "same" if generators or not settings.method.generators else "new",
    }


@dataclass
class _Tracked:
    """A run in MLflow, and what did not get there."""

    tracker: RunTracker
    folder: RunFolder
    unsent: int = 0

    def outcome(self) -> Outcome:
        knn = self.tracker.series.get("knn/accuracy", [])
        return Outcome(
            self.folder.name,
            self.folder.location,
            self.folder.checkpoints(),
            next((value for step, value in knn if step == 0), None),
            knn[-1][1] if knn and knn[-1][0] > 0 else None,
            self.tracker.uri,
            self.tracker.experiment_id,
            self.tracker.run_id,
            self.unsent,
        )


@contextmanager
def _tracked(settings: PretrainSettings, folder: RunFolder, record: dict[str, Any]) -> Iterator[_Tracked]:
    """Open the run in MLflow, and give it its state at the end, however it ends."""
    tracker = RunTracker(
        settings.tracking.uri,
        settings.tracking.experiment,
        settings.name,
        record["id"],
        Path(folder.location, "tracking") if folder.local else _HOME / "tracking" / record["id"],
        say,
    )
    tracked = _Tracked(tracker, folder)
    status: RunStatus = "FINISHED"
    try:
        yield tracked
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except BaseException:
        status = "FAILED"
        raise
    finally:
        # A job that is stopped has three seconds; what does not arrive now arrives at the next start.
        tracked.unsent = tracker.close(status, patience=60.0 if status == "FINISHED" else 2.0)


def _fit(
    settings: PretrainSettings,
    folder: RunFolder,
    tracker: RunTracker,
    placement: Placement,
    record: dict[str, Any],
    fork: dict[str, str] | None,
) -> None:
    monitor = Monitor(settings, tracker, folder, say)
    began = time.monotonic()
    try:
        with listening(monitor.take, say) as queue:
            make_trainer = partial(_trainer, settings, folder, placement, queue, record, fork)
            result = _fit_persistently(make_trainer, settings.compute.max_failures_in_row)
    except TrainingFailedError as error:
        failures = getattr(error, "worker_failures", None)
        reason = describe_failures(failures) if failures else str(error).strip().splitlines()[-1]
        raise TrainingError(
            f"{reason}; given up after {counted(monitor.restarts, 'failure')}. The same command goes on from the last "
            f"checkpoint ({(folder.checkpoints() or ['none yet'])[-1]})"
        ) from error
    except ray.exceptions.RayError as error:
        raise TrainingError(
            f"Ray lost the run ({type(error).__name__}: {str(error).splitlines()[0]}); the same command goes on from "
            "the last checkpoint"
        ) from error
    stopped = (result.return_value or {}).get(STOPPED)
    if stopped is not None:
        raise TrainingError(f"{stopped}; the last failure: {monitor.failure}" if monitor.failure else stopped)
    say(f"run {settings.name!r} is finished after {duration(time.monotonic() - began)}")


def _trainer(
    settings: PretrainSettings,
    folder: RunFolder,
    placement: Placement,
    queue: Queue,
    record: dict[str, Any],
    fork: dict[str, str] | None,
) -> TorchTrainer:
    elastic = placement.min_workers < placement.workers
    return TorchTrainer(
        run_worker,
        train_loop_config={
            "settings": settings.model_dump(mode="json"),
            "cpus": placement.cpus,
            "queue": queue,
            "record": record,
            "fork": fork,
        },
        scaling_config=ScalingConfig(
            num_workers=(placement.min_workers, placement.workers) if elastic else placement.workers,
            use_gpu=placement.gpu,
            resources_per_worker=placement.worker,
        ),
        torch_config=TorchConfig(backend=placement.backend),
        run_config=RunConfig(
            name=settings.name,
            storage_path=folder.storage,
            failure_config=FailureConfig(max_failures=settings.compute.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=settings.checkpoint.keep),
            callbacks=[ControllerMessages(queue)],
            worker_runtime_env=placement.runtime_env,
        ),
    )


def _fit_persistently(make_trainer: Callable[[], TorchTrainer], retries: int) -> Result:
    """Ray Train starts workers again that it loses in training, and gives up where it loses them as they start."""
    while True:
        try:
            return make_trainer().fit()
        except ControllerError as error:
            if not retries or not isinstance(error.controller_failure, ray.exceptions.RayError):
                raise
            retries -= 1
            reason = str(error.controller_failure).strip().splitlines()[0]
            say(f"Ray lost the workers while they started ({reason}); they are started again")


def _announcement(
    settings: PretrainSettings, manifest: Manifest, placement: Placement, folder: RunFolder, tracker: RunTracker
) -> str:
    workers = counted(placement.workers, "worker")
    if placement.min_workers < placement.workers:
        workers = f"{placement.min_workers} to {placement.workers} workers"
    each = "1 GPU and " if placement.gpu else ""
    return (
        f"run {settings.name!r}: {counted(manifest.samples, 'image')}, {counted(settings.training.epochs, 'epoch')} of "
        f"batches of {settings.training.batch_size}, {workers} with {each}{counted(placement.cpus, 'CPU')}; kept in "
        f"{folder.location}; MLflow run {tracker.run_id} at {tracker.uri}"
    )
