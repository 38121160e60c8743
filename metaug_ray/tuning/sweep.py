"""A sweep, from the driver: checked, run, reported, and brought to a registered encoder."""

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from metaug_ray.config.recorded import ordered_as_recorded, without_secrets
from metaug_ray.config.sweep import SweepSettings
from metaug_ray.data.manifest import Manifest
from metaug_ray.data.staging import find_manifest
from metaug_ray.names import slug
from metaug_ray.runtime.cluster import cluster, nodes
from metaug_ray.runtime.placement import Placement
from metaug_ray.runtime.run_folder import SWEEP, RunFolder
from metaug_ray.runtime.stored_folder import StoredFolder
from metaug_ray.runtime.tracked import open_tracker, told_at_the_end
from metaug_ray.runtime.words import counted
from metaug_ray.tracking.connection import check_tracking
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.tracking.records import RunStatus
from metaug_ray.tracking.runs import PARENT_TAG, RunTracker, end_run, running_parts
from metaug_ray.training.capacity import place
from metaug_ray.training.trainer import end_in_mlflow
from metaug_ray.tuning.checks import check_data, check_resumable, fixed, placed, runs_at_a_time
from metaug_ray.tuning.errors import TuningError
from metaug_ray.tuning.live import LiveView
from metaug_ray.tuning.points import ENDED, RunState, TrialRun
from metaug_ray.tuning.results import check_any_finished, make_report, register_best
from metaug_ray.tuning.runner import run_trials
from metaug_ray.tuning.trial import TrialTask
from metaug_ray.tuning.trials import Trials

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepOutcome:
    """A sweep that has ended.

    Attributes:
        trials: all that it tried.
        report: folder with report.md, trials.csv, figures and the best settings.
        registered: names of the registered encoders.
        tracking_uri, run_id: its MLflow run.
        left: why not all was tried; None where all was.
    """

    trials: Trials
    report: Path
    registered: list[str]
    tracking_uri: str
    run_id: str
    left: str | None


def tune(settings: SweepSettings) -> SweepOutcome:
    """Search, compare and register, or go on with the sweep of this name.

    Raises:
        UserError: settings, data, storage, cluster or MLflow do not allow the sweep, or none of its runs finished.
    """
    manifest = find_manifest(settings.run.data.beton)
    check_data(settings, manifest)
    folder = _folder(settings)
    folder.make()
    lock = folder.lock()
    try:
        return _tune(settings, folder, manifest)
    finally:
        folder.remove_if_unused()
        if lock is not None:
            lock.release()


def report(storage: str, name: str) -> Path:
    """Write the report of what a sweep has so far; it may run meanwhile.

    Args:
        storage: folder or URI of all runs.
        name: of the sweep.

    Raises:
        TuningError: there is no such sweep.
    """
    folder = StoredFolder(storage, name, "sweep")
    record = folder.read_json(SWEEP)
    if record is None:
        raise TuningError(f"name: there is no sweep {name!r} in {folder.storage}; look at --storage")
    begun = SweepSettings.model_validate(without_secrets(record["settings"]))
    return make_report(begun, folder, Trials(begun, folder, looking=True))


def _folder(settings: SweepSettings) -> StoredFolder:
    run = settings.run
    folder = StoredFolder(run.storage, run.name, "sweep")
    if folder.read_json(SWEEP) is None and RunFolder(run.storage, run.name).record is not None:
        raise TuningError(f"name: {run.name!r} is a single run in {run.storage}; give the sweep another --name")
    return folder


def _tune(settings: SweepSettings, folder: StoredFolder, manifest: Manifest) -> SweepOutcome:
    record = folder.read_json(SWEEP)
    if record is not None:
        run = ordered_as_recorded(settings.run, record["fixed"]["run"])
        settings = settings.model_copy(update={"run": run})
    run, begun_with = settings.run, fixed(settings, manifest)
    if record is None:
        record = {"id": uuid.uuid4().hex, "fixed": begun_with}
    else:
        check_resumable(settings, record["fixed"], begun_with)
    check_tracking(run.tracking.uri, run.tracking.experiment, registry=run.register_as is not None)
    trials = Trials(settings, folder)
    with cluster(run.compute.address):
        placement = place(placed(run), nodes(), manifest.samples)
        concurrency = runs_at_a_time(settings, placement)
        if over := _limit(settings, trials, placement):
            raise TuningError(f"{over} already, before anything could begin; give more")
        folder.write_json(SWEEP, record | {"fixed": begun_with, "settings": settings.model_dump(mode="json")})
        with _tracked(settings, folder, record["id"], trials) as tracker:
            tracker.settings(settings.model_dump(mode="json"), begun_with, settings.to_yaml())
            _log.info(
                "sweep %r: %s to come, %d at a time; kept in %s; MLflow run %s at %s",
                run.name,
                counted(trials.to_come(), "run"),
                concurrency,
                folder.location,
                tracker.run_id,
                tracker.uri,
            )
            left = _run(settings, folder, trials, tracker, concurrency, placement)
            where = make_report(settings, folder, trials, tracker)
            check_any_finished(trials, where)
            registered = register_best(settings, trials, tracker) if run.register_as is not None else []
    return SweepOutcome(trials, where, registered, tracker.uri, tracker.run_id, left)


def _run(
    settings: SweepSettings,
    folder: StoredFolder,
    trials: Trials,
    tracker: RunTracker,
    concurrency: int,
    placement: Placement,
) -> str | None:
    tags = {PARENT_TAG: tracker.run_id, "metaug.sweep": settings.run.name}

    def task(run: TrialRun) -> TrialTask:
        of_run = {"metaug.sweep.group": run.group, "metaug.sweep.point": str(run.point)}
        judged = None if run.purpose == "search" else settings.compare
        chosen = placed(trials.settings_of(run)).tracked_at(tracker.uri)
        return TrialTask(chosen, chosen.health.best_metric, tags | of_run, judged)

    with LiveView(settings) as view:

        def changed() -> None:
            _count(trials, tracker)
            view.update(trials.points, trials.finals, trials.to_come(), concurrency, trials.progress, trials.tick())

        try:
            return run_trials(
                trials,
                task,
                concurrency=concurrency,
                limit=partial(_limit, settings, trials, placement),
                changed=changed,
            )
        except (KeyboardInterrupt, SystemExit):
            trials.interrupt("the sweep was interrupted")
            make_report(settings, folder, trials, draw=False)
            raise


def _limit(settings: SweepSettings, trials: Trials, placement: Placement) -> str | None:
    """Why a sweep's time is over; None while it is not."""
    search = settings.search
    if search.hours is not None and trials.tick() > 3600 * search.hours:
        return f"search.hours: the {search.hours:g} hours are over"
    gpus = placement.workers * placement.worker.get("GPU", 0)
    if search.gpu_hours is not None and gpus * sum(run.hours for run in trials.runs) > search.gpu_hours:
        return f"search.gpu_hours: the {search.gpu_hours:g} hours of GPUs are over"
    return None


def _count(trials: Trials, tracker: RunTracker) -> None:
    """Let MLflow know how far the sweep is, by the runs that have ended."""
    ended = [run for run in trials.runs if run.ended]
    values = {group: point.value for group in trials.spaces if (point := trials.best(group)) and point.finished}
    best = {f"best/{slug(group) or 'all'}": value for group, value in values.items()}
    states = {f"runs/{state}": float(sum(run.state == state for run in ended)) for state in ENDED}
    tracker.metrics(len(ended), best | states | {"hours/runs": sum(run.hours for run in trials.runs)})


@contextmanager
def _tracked(settings: SweepSettings, folder: StoredFolder, key: str, trials: Trials) -> Iterator[RunTracker]:
    """Open the sweep's run in MLflow, and give it and its parts their states at the end, however it ends."""
    tracker = open_tracker(settings.run.tracking, folder, key)

    def end(status: RunStatus, patience: float) -> None:
        try:
            _end_parts(trials, tracker, brief=status == "KILLED")
        except TrackingError as error:
            _log.warning("%s", error)
        if unsent := tracker.close(status, patience):
            _log.warning("MLflow is away: %d records wait in %s; the same command sends them", unsent, folder.location)

    with told_at_the_end(end):
        yield tracker


def _end_parts(trials: Trials, tracker: RunTracker, *, brief: bool) -> None:
    """Give the runs whose processes ended without a word to MLflow, as when it was away, their state.

    Args:
        trials: of the sweep.
        tracker: of the sweep.
        brief: send nothing that is left of them: a job that is stopped has three seconds.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    status: dict[RunState, RunStatus] = {"finished": "FINISHED", "failed": "FAILED"}
    runs = {run.name: run for run in trials.runs}
    for name, run_id in running_parts(tracker.uri, tracker.experiment_id, tracker.run_id).items():
        run = runs.get(name)
        ended = status.get(run.state, "KILLED") if run is not None else "KILLED"
        if run is not None and not brief:
            end_in_mlflow(trials.settings_of(run).tracked_at(tracker.uri), ended)
        else:
            end_run(tracker.uri, run_id, ended)
