"""One pre-training run, from the driver: checked, started, watched and brought to its end."""

import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metaug_ray.addresses import without_secret
from metaug_ray.config.pretrain import KNN_ACCURACY, PretrainSettings
from metaug_ray.config.recorded import fixed_settings, ordered_as_recorded, to_yaml
from metaug_ray.config.tracking import VARIABLE
from metaug_ray.data.manifest import Manifest, check_shard
from metaug_ray.data.order import check_shards
from metaug_ray.data.staging import find_manifest
from metaug_ray.runtime.checkpoint_files import CheckpointFiles
from metaug_ray.runtime.cluster import cluster, nodes, warn_if_busy
from metaug_ray.runtime.placement import Placement
from metaug_ray.runtime.run_folder import SWEEP, RunFolder
from metaug_ray.runtime.stopping import Stopping
from metaug_ray.runtime.tracked import open_tracker, told_at_the_end
from metaug_ray.runtime.words import counted
from metaug_ray.tracking.connection import check_tracking
from metaug_ray.tracking.records import RunStatus
from metaug_ray.tracking.runs import RunTracker
from metaug_ray.training.capacity import place
from metaug_ray.training.errors import DamagedError, TrainingError
from metaug_ray.training.online_checks import check_evaluation
from metaug_ray.training.resume import check_resumable, lengthened
from metaug_ray.training.supervision import Supervision
from metaug_ray.training.warm_start import find_warm_start

_log = logging.getLogger(__name__)


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


def pretrain(settings: PretrainSettings, supervision: Supervision | None = None) -> Outcome:
    """Train to the end, or go on with the run of this name.

    Whatever can be known to be wrong is found before a worker starts.

    Args:
        settings: of the run.
        supervision: by whoever started it, if that is no person.

    Raises:
        SystemExit: it was stopped.
        UserError: settings, data, storage, cluster or MLflow do not allow the run, or workers failed more often than
            allowed.
    """
    manifest = find_manifest(settings.data.beton)
    batch = settings.training.batch_size
    if manifest.samples < batch:
        raise TrainingError(
            f"training.batch_size: a batch of {batch:,} images is more than the {manifest.samples:,} of "
            f"{settings.data.beton}; give fewer"
        )
    if "://" not in settings.data.beton:
        for shard in manifest.shards:
            check_shard(Path(settings.data.beton) / shard.name, shard)
    check_shards(settings.data.beton, len(manifest.shard_samples), batch, settings.data.order)
    check_evaluation(settings, manifest)
    folder = RunFolder(settings.storage, settings.name)
    folder.make()
    if folder.read_json(SWEEP) is not None:
        raise TrainingError(f"name: {settings.name!r} is a sweep in {folder.storage}; give the run another --name")
    lock = folder.lock()
    try:
        return _pretrain(settings, folder, manifest, supervision)
    finally:
        folder.remove_if_unused()
        if lock is not None:
            lock.release()


def _pretrain(
    settings: PretrainSettings, folder: RunFolder, manifest: Manifest, supervision: Supervision | None
) -> Outcome:
    record = folder.record
    method = settings.method
    for reason, idle in (
        (f"method.contrast is {method.contrast}", method.idle_parameters),
        ("there are no generators (method.generators)", method.idle_without_generators),
    ):
        if idle:
            set_ones = ", ".join(f"{name} {value}" for name, value in idle.items())
            _log.warning("%s, so these have no effect: %s", reason, set_ones)
    if record is None:
        record = _new_record(settings, manifest)
    else:
        settings = ordered_as_recorded(settings, record["fixed"])
        check_resumable(record, settings, manifest.sha256, folder.checkpoints())
        if "finished" in record:
            _check_has_checkpoint(folder)
        record = lengthened(record, settings)
        there, missing = folder.checkpoints(), folder.missing()
        if "finished" in record and there and missing and missing[-1] > there[-1]:
            _log.warning("run %r was finished, but its last checkpoint, %s, is gone", folder.name, missing[-1])
            record = {name: value for name, value in record.items() if name != "finished"}
        if "finished" not in record:
            _check_not_all_missing(folder)
    settings = _tracked_as_before(settings, record)
    # Before a cluster is joined or started for nothing.
    tracking = settings.tracking
    check_tracking(tracking.uri, tracking.experiment, registry=settings.register_as is not None)
    if "finished" in record:
        return _finished(settings, folder, record, supervision)
    other = None if folder.checkpoints() else record["fork"]
    warm_start = None if other is None else find_warm_start(settings, other, manifest)
    # An elastic run is better off with fewer workers than with a long wait for one that is lost.
    with cluster(settings.compute.address, start_timeout=60 if settings.compute.min_workers else 300):
        placement = place(settings, nodes(), manifest.samples)
        # Torch takes seconds to import; what is wrong with settings, data or MLflow is told before.
        from metaug_ray.training.contrasts import make_contrast
        from metaug_ray.training.fit import fit

        # Of no use here, but one whose settings and function differ fails before a worker starts.
        make_contrast(settings.method, pairs=1)
        with _tracked(settings, folder, record) as tracked:
            tracker = tracked.tracker
            record |= {"mlflow": {"uri": tracker.uri, "run_id": tracker.run_id}}
            folder.write_record(record)
            fixed = record["fixed"] | {"data.sha256": manifest.sha256}
            tracker.settings(settings.model_dump(mode="json"), fixed, to_yaml(settings))
            tracker.tags({"metaug.variant": settings.variant})
            if "lengthened" in record:
                # MLflow lets no parameter change: training.epochs stays what it was at first.
                course = (*record["lengthened"], settings.training.epochs)
                tracker.tags({"metaug.lengthened": " -> ".join(map(str, course)) + " epochs"})
            _supervised(tracker, supervision)
            _announce(settings, manifest, placement, folder, tracker)
            _tidy(folder, settings.health.best_metric)
            warn_if_busy(placement)
            follows = "after some minutes of compiling" if settings.compute.compile else "within a minute"
            _log.info("starting the workers; the first step follows %s", follows)
            grace = settings.checkpoint.grace_seconds
            stopping = Stopping(grace) if supervision is None else Stopping(grace, supervision.stop)
            with stopping.by_sigterm():
                while True:
                    try:
                        fit(settings, folder, tracker, placement, record, warm_start, stopping, supervision)
                        break
                    except DamagedError as error:
                        _go_back(folder, error, settings.health.best_metric)
            folder.remove_unfinished()
            folder.write_record(record | {"finished": time.time()})
            tracker.curves()
    return tracked.outcome()


def _finished(
    settings: PretrainSettings, folder: RunFolder, record: dict[str, Any], supervision: Supervision | None
) -> Outcome:
    """Send what a finished run measured to MLflow, which may be another one than it was trained with."""
    longer = "" if settings.training.schedule.kind == "cosine" else "more --training.epochs to go on, or "
    with _tracked(settings, folder, record) as tracked:
        _log.info("run %r is finished already; give %sanother --name to train again", settings.name, longer)
        _supervised(tracked.tracker, supervision)
        known = {"uri": tracked.tracker.uri, "run_id": tracked.tracker.run_id}
        if record.get("mlflow") != known:
            folder.write_record(record | {"mlflow": known})
    return tracked.outcome()


def _supervised(tracker: RunTracker, supervision: Supervision | None) -> None:
    """Tell a supervisor, who may be another one than at an earlier start, what was measured so far."""
    if supervision is None:
        return
    tracker.tags(dict(supervision.tags))
    for name, values in list(tracker.series.items()):
        for step, value in values:
            supervision.measured(step, {name: value})


def _check_has_checkpoint(folder: RunFolder) -> None:
    if not folder.checkpoints() and not folder.missing():
        raise TrainingError(
            f"name: run {folder.name!r} has ended without a checkpoint in {folder.location}: no step had a finite "
            "loss, or its checkpoints were deleted; train again under a new --name"
        )


def _tracked_as_before(settings: PretrainSettings, record: dict[str, Any]) -> PretrainSettings:
    """A run that goes on stays in its MLflow where nobody says anything else."""
    recorded = record.get("mlflow", {}).get("uri")
    if recorded is None or "uri" in settings.tracking.model_fields_set or os.environ.get(VARIABLE):
        return settings
    # Earlier versions kept its password too.
    return settings.tracked_at(without_secret(recorded))


def _new_record(settings: PretrainSettings, manifest: Manifest) -> dict[str, Any]:
    return {
        # The same name in the same place may be another run, after its folder was deleted.
        "id": uuid.uuid4().hex,
        "fork": settings.fork,
        "settings": settings.model_dump(mode="json"),
        "fixed": fixed_settings(settings),
        "data": {"beton": settings.data.beton, "sha256": manifest.sha256, "samples": manifest.samples},
    }


def _tidy(folder: RunFolder, best_metric: str) -> None:
    """Bring the folder into the state that an earlier start of the run may not have left it in."""
    if missing := folder.missing():
        _log.warning("%s: missing in %s, and no longer counted", ", ".join(missing), folder.location)
        folder.forget(missing)
    for name in folder.remove_unfinished():
        _log.info("removed %s, which was not written to its end", name)
    folder.keep_best_of_all(best_metric, _is_whole)
    folder.count_start(None)


def _check_not_all_missing(folder: RunFolder) -> None:
    """A run goes on from the last checkpoint that is there, where somebody took away later ones."""
    if folder.missing() and not folder.checkpoints():
        raise TrainingError(
            f"name: all checkpoints of run {folder.name!r} ({', '.join(folder.missing())}) are missing in "
            f"{folder.location}; {_what_is_left(folder)}"
        )


def _what_is_left(folder: RunFolder) -> str:
    """What to do where no checkpoint is."""
    best = folder.best()
    still = "" if best is None else f"; its best one, of step {best.step:,}, is still run:{folder.name}@best"
    return f"restore one under its own name from a backup, or begin anew under another --name{still}"


def _go_back(folder: RunFolder, error: DamagedError, best_metric: str) -> None:
    """Let the checkpoint before a damaged one count as the last, if there is one."""
    if _is_whole(folder.files(error.checkpoint)):
        raise TrainingError(
            f"{error}, but is whole as this machine sees it: look at that machine's mounts and network, and at "
            f"{folder.location} from there; nothing was changed, and the same command goes on"
        )
    before = [name for name in folder.checkpoints() if name < error.checkpoint]
    if not before:
        raise DamagedError(f"{error}; no earlier checkpoint is left: {_what_is_left(folder)}", error.checkpoint)
    aside = folder.set_aside(error.checkpoint)
    folder.keep_best_of_all(best_metric, _is_whole)
    _log.warning("%s; it is kept as %s, and the run goes on from %s", error, aside, before[-1])


def _is_whole(files: CheckpointFiles) -> bool:
    # Torch takes seconds to import.
    from metaug_ray.runtime.plain_checkpoint import damage

    return damage(files) is None


@dataclass
class _Tracked:
    """A run in MLflow, and what did not get there."""

    tracker: RunTracker
    folder: RunFolder
    unsent: int = 0

    def outcome(self) -> Outcome:
        knn = self.tracker.series.get(KNN_ACCURACY, [])
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


def end_in_mlflow(settings: PretrainSettings, status: RunStatus) -> None:
    """Send MLflow what is left of a run whose process is gone, and give the run its state if it has not ended.

    Args:
        settings: of the run.
        status: of it.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    folder = RunFolder(settings.storage, settings.name)
    record = folder.record
    if record is not None and "finished" not in record:
        open_tracker(_tracked_as_before(settings, record).tracking, folder, record["id"]).close(status)


@contextmanager
def _tracked(settings: PretrainSettings, folder: RunFolder, record: dict[str, Any]) -> Iterator[_Tracked]:
    """Open the run in MLflow, and give it its state at the end, however it ends."""
    tracked = _Tracked(open_tracker(settings.tracking, folder, record["id"]), folder)

    def end(status: RunStatus, patience: float) -> None:
        tracked.unsent = tracked.tracker.close(status, patience)

    with told_at_the_end(end):
        yield tracked


def _announce(
    settings: PretrainSettings, manifest: Manifest, placement: Placement, folder: RunFolder, tracker: RunTracker
) -> None:
    workers = counted(placement.workers, "worker")
    if placement.min_workers < placement.workers:
        workers = f"{' or '.join(map(str, placement.counts))} workers"
    each = f"{placement.gpu_share:g} GPU and " if placement.gpu else ""
    _log.info(
        f"run {settings.name!r}: {settings.variant}, {counted(manifest.samples, 'image')}, "
        f"{counted(settings.training.epochs, 'epoch')} of batches of {settings.training.batch_size}, {workers} with "
        f"{each}{counted(placement.cpus, 'CPU')}; kept in {folder.location}; MLflow run {tracker.run_id} at "
        f"{tracker.uri}"
    )
