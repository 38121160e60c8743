"""A sweep, from the driver: checked, run, reported, and brought to a registered encoder."""

import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray

from metaug_ray.config.pretrain import KNN_ACCURACY, PretrainSettings
from metaug_ray.config.recorded import fixed_settings, to_yaml
from metaug_ray.config.register import RegisterSettings
from metaug_ray.config.sweep import SweepSettings
from metaug_ray.data.manifest import Manifest
from metaug_ray.data.sources.classes import other_classes
from metaug_ray.data.staging import find_manifest
from metaug_ray.evaluation.register import register_encoder
from metaug_ray.names import slug
from metaug_ray.runtime.cluster import cluster, nodes
from metaug_ray.runtime.placement import Placement, workers_that_fit
from metaug_ray.runtime.run_folder import RunFolder
from metaug_ray.runtime.stored_folder import StoredFolder
from metaug_ray.runtime.words import counted
from metaug_ray.tracking.connection import check_tracking
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.tracking.records import RunStatus
from metaug_ray.tracking.runs import PARENT_TAG, RunTracker, end_parts
from metaug_ray.training.capacity import place
from metaug_ray.training.online_checks import check_evaluation
from metaug_ray.training.resume import differences
from metaug_ray.tuning.errors import TuningError
from metaug_ray.tuning.live import LiveView
from metaug_ray.tuning.points import TrialRun
from metaug_ray.tuning.report import Report, write_report
from metaug_ray.tuning.runner import run_trials
from metaug_ray.tuning.search import importances
from metaug_ray.tuning.trial import TrialTask
from metaug_ray.tuning.trials import Trials

_RECORD: Final = "sweep.json"
_SWEEPS: Final = Path("~/metaug_ray/sweeps").expanduser()
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepOutcome:
    """A sweep that has ended.

    Attributes:
        trials: all that it tried.
        report: folder with report.md, trials.csv, figures and the best settings.
        registered: names of the registered encoders.
        tracking_uri, run_id: its MLflow run.
        complete: whether all was tried; else its time was over.
    """

    trials: Trials
    report: Path
    registered: list[str]
    tracking_uri: str
    run_id: str
    complete: bool


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


def report(settings: SweepSettings) -> Path:
    """Write the report of what a sweep has so far; it may run meanwhile.

    Raises:
        TuningError: there is no such sweep.
    """
    folder = _folder(settings)
    if folder.read_json(_RECORD) is None:
        raise TuningError(f"name: there is no sweep {settings.run.name!r} in {folder.storage}; look at --storage")
    return _report(settings, folder, Trials(settings, folder))


def check_data(settings: SweepSettings, manifest: Manifest) -> None:
    """Whether there are labels to go by, and others to judge by.

    Raises:
        UserError: there are not.
    """
    check_evaluation(settings.run, manifest)
    knn = settings.run.health.knn
    if settings.run.health.best_metric == KNN_ACCURACY and knn.references_beton is None and not manifest.labelled:
        raise TuningError(
            f"health.best_by: {settings.run.data.beton} has no labels, so there is no kNN accuracy to search by; give "
            "a labelled beton as health.knn.references_beton, or set health.best_by rankme, which needs none"
        )
    compare = settings.compare
    if compare is None:
        return
    learnt_from = compare.train or settings.run.data.beton
    learnt = find_manifest(learnt_from)
    chosen_by = {"training": manifest.sha256, "learning": learnt.sha256}
    for deciding in filter(None, (knn.references_beton, knn.beton)):
        chosen_by[f"deciding ({deciding})"] = find_manifest(deciding).sha256
    for name, beton in (("judge", compare.judge), ("seen", compare.seen)):
        if beton is None:
            continue
        found = find_manifest(beton)
        if found.classes != learnt.classes or not found.classes:
            raise TuningError(f"compare.{name}: " + other_classes(found.classes, beton, learnt.classes, learnt_from))
        for use, sha256 in chosen_by.items():
            if found.sha256 == sha256 and (name == "judge" or not use.startswith("deciding")):
                raise TuningError(
                    f"compare.{name}: {beton} is used for {use} too, and would judge what was chosen by it; give "
                    "images of their own (prepare_data.py --source.part makes parts of a data set)"
                )


def _folder(settings: SweepSettings) -> StoredFolder:
    run = settings.run
    if RunFolder(run.storage, run.name).record is not None:
        raise TuningError(f"name: {run.name!r} is a single run in {run.storage}; give the sweep another --name")
    return StoredFolder(run.storage, run.name, "sweep")


def _tune(settings: SweepSettings, folder: StoredFolder, manifest: Manifest) -> SweepOutcome:
    run = settings.run
    record = folder.read_json(_RECORD)
    fixed = _fixed(settings, manifest)
    if record is None:
        record = {"id": uuid.uuid4().hex, "fixed": fixed}
    else:
        _check_resumable(settings, record["fixed"], fixed)
    check_tracking(run.tracking.uri, run.tracking.experiment, registry=run.register_as is not None)
    trials = Trials(settings, folder)
    with cluster(run.compute.address):
        concurrency = _concurrency(settings, place(_placed(run), nodes(), manifest.samples))
        folder.write_json(_RECORD, record | {"fixed": fixed})
        with _tracked(settings, folder, record["id"]) as tracker:
            tracker.settings(settings.model_dump(mode="json"), fixed, settings.to_yaml())
            _log.info(
                "sweep %r: %s to come, %d at a time; kept in %s; MLflow run %s at %s",
                run.name,
                counted(trials.to_come(), "run"),
                concurrency,
                folder.location,
                tracker.run_id,
                tracker.uri,
            )
            complete = _run(settings, folder, trials, tracker, concurrency)
            where = _report(settings, folder, trials, tracker)
            registered = _register(settings, trials, tracker.uri) if run.register_as is not None else []
    return SweepOutcome(trials, where, registered, tracker.uri, tracker.run_id, complete)


def _run(settings: SweepSettings, folder: StoredFolder, trials: Trials, tracker: RunTracker, concurrency: int) -> bool:
    tags = {PARENT_TAG: tracker.run_id, "metaug.sweep": settings.run.name}

    def task(run: TrialRun) -> TrialTask:
        of_run = {"metaug.sweep.group": run.group, "metaug.sweep.point": str(run.point)}
        judged = None if run.purpose == "search" else settings.compare
        chosen = _placed(trials.settings_of(run))
        tracking = chosen.tracking.model_copy(update={"uri": tracker.uri})
        return TrialTask(
            chosen.model_copy(update={"tracking": tracking}), chosen.health.best_metric, tags | of_run, judged
        )

    with LiveView(settings) as view:

        def changed() -> None:
            _count(trials, tracker)
            view.update(trials.points, trials.finals, trials.to_come(), concurrency, trials.progress, trials.tick())

        hours = settings.search.hours
        try:
            return run_trials(
                trials, task, concurrency=concurrency, seconds=None if hours is None else 3600 * hours, changed=changed
            )
        except (KeyboardInterrupt, SystemExit):
            trials.interrupt("the sweep was interrupted")
            _report(settings, folder, trials, draw=False)
            raise
        finally:
            changed()


def _count(trials: Trials, tracker: RunTracker) -> None:
    """Let MLflow know how far the sweep is, by the runs that have ended."""
    ended = [run for run in trials.runs if run.state in ("finished", "stopped", "failed")]
    best = {f"best/{slug(group) or 'all'}": point.value for group in trials.spaces if (point := trials.best(group))}
    states = {
        f"runs/{state}": float(sum(run.state == state for run in ended)) for state in ("finished", "stopped", "failed")
    }
    tracker.metrics(len(ended), best | states | {"hours/runs": sum(run.hours for run in trials.runs)})


def _report(
    settings: SweepSettings,
    folder: StoredFolder,
    trials: Trials,
    tracker: RunTracker | None = None,
    *,
    draw: bool = True,
) -> Path:
    where = Path(folder.location) if folder.local else _SWEEPS / settings.run.name
    where = where / "report"
    found = (
        {group: importances(space, trials.of_group(group)) for group, space in trials.spaces.items()} if draw else {}
    )
    files = write_report(Report(settings, trials.points, trials.finals, found, trials.seconds), where, draw=draw)
    for group in trials.spaces:
        best = trials.best(group)
        if best is not None:
            name = f"best-{slug(group)}.yaml" if group else "best.yaml"
            chosen = trials.settings_of(best.runs[0])
            called = chosen.model_copy(update={"name": f"{settings.run.name}-{name.removesuffix('.yaml')}"})
            (where / name).write_text(to_yaml(called), encoding="utf-8")
            files.append(where / name)
    if tracker is not None:
        for file in files:
            tracker.file(f"report/{file.name}", file.read_bytes())
    return where


def _register(settings: SweepSettings, trials: Trials, uri: str) -> list[str]:
    """Publish the best encoder of each group."""
    registered = []
    for group in trials.spaces:
        best = trials.best(group)
        if best is None:
            continue
        refits = [
            run for run in trials.finals if run.purpose == "refit" and (run.group, run.point) == (group, best.number)
        ]
        chosen = max(best.runs, key=lambda run: run.last) if settings.refit is None else refits[0]
        if chosen.state != "finished":
            _log.warning("run %r is not finished (%s), so it is not registered", chosen.name, chosen.reason)
            continue
        name = f"{settings.run.register_as}-{slug(group)}" if group else str(settings.run.register_as)
        tracking = settings.run.tracking.model_copy(update={"uri": uri})
        register_encoder(
            RegisterSettings(encoder=f"run:{chosen.name}", name=name, storage=settings.run.storage, tracking=tracking)
        )
        registered.append(name)
    return registered


def _placed(run: PretrainSettings) -> PretrainSettings:
    """A run of a sweep has one worker where nobody says how many: a run alone would take the whole cluster."""
    if run.compute.workers is not None:
        return run
    return run.model_copy(update={"compute": run.compute.model_copy(update={"workers": 1})})


def _concurrency(settings: SweepSettings, placement: Placement) -> int:
    """How many runs there are at a time.

    Raises:
        TuningError: more are asked for than the cluster has room for.
    """
    room = sum(workers_that_fit(node, placement.cpus, placement.gpu, placement.gpu_share) for node in nodes())
    room //= placement.workers
    free = ray.available_resources()
    # Fractions of a GPU that add up to one may miss it by a rounding.
    at_once = min(int(free.get(kind, 0) / (each * placement.workers) + 1e-6) for kind, each in placement.worker.items())
    asked = settings.search.concurrency
    each = " and ".join(f"{count:g} {kind}s" for kind, count in placement.worker.items())
    if asked is not None and asked > room:
        raise TuningError(
            f"search.concurrency: {asked} runs x {counted(placement.workers, 'worker')} x {each}, but the cluster has "
            f"room for {counted(room, 'run')} at a time; ask for at most {room}, or set compute.cpus_per_worker lower"
        )
    if at_once < 1:
        _log.warning("waiting for resources: a run needs %d x %s, and other jobs hold them", placement.workers, each)
    return asked or max(1, min(room, at_once))


def _fixed(settings: SweepSettings, manifest: Manifest) -> dict[str, Any]:
    """What a sweep that is resumed shares with its beginning."""
    dumped = settings.model_dump(mode="json", exclude_defaults=True)
    search = settings.search.model_dump(mode="json", include={"kind", "seeds", "seed", "asha"})
    return {
        "run": fixed_settings(settings.run.model_copy(update={"name": ""})),
        "data": {"sha256": manifest.sha256},
        "space": dumped.get("space", {}),
        "groups": settings.model_dump(mode="json")["groups"],
        "search": search,
        "metric": settings.run.health.best_metric,
    }


def _check_resumable(settings: SweepSettings, old: dict[str, Any], new: dict[str, Any]) -> None:
    epochs = [fixed["run"]["training"]["epochs"] for fixed in (old, new)]
    longer = epochs[1] > epochs[0] and settings.run.training.schedule.kind != "cosine"
    if longer:
        training = old["run"]["training"] | {"epochs": epochs[1]}
        old = old | {"run": old["run"] | {"training": training}}
    if changed := differences(old, new):
        listed = "\n".join(changed)
        raise TuningError(
            f"name: sweep {settings.run.name!r} was begun with other settings:\n{listed}\nGo on with the old ones, or "
            "give a new --name. More search.trials, more compare.seeds and, where the schedule is no cosine, more "
            "training.epochs go on with a sweep"
        )


@contextmanager
def _tracked(settings: SweepSettings, folder: StoredFolder, key: str) -> Iterator[RunTracker]:
    """Open the sweep's run in MLflow, and give it and its parts their states at the end, however it ends."""
    tracking = settings.run.tracking
    kept = Path(folder.location, "tracking") if folder.local else _SWEEPS / key
    tracker = RunTracker(tracking.uri, tracking.experiment, settings.run.name, key, kept)
    status: RunStatus = "FINISHED"
    try:
        yield tracker
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except BaseException:
        status = "FAILED"
        raise
    finally:
        try:
            end_parts(tracker.uri, tracker.experiment_id, tracker.run_id, "KILLED")
        except TrackingError as error:
            _log.warning("%s", error)
        if unsent := tracker.close(status, patience=60.0 if status == "FINISHED" else 2.0):
            _log.warning("MLflow is away: %d records wait in %s; the same command sends them", unsent, kept)
