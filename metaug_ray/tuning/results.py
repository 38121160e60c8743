"""What a sweep leaves: its report, the best settings as a file, and registered encoders."""

import logging
from collections import Counter
from pathlib import Path
from typing import Final

from metaug_ray.config.recorded import to_yaml
from metaug_ray.config.register import RegisterSettings
from metaug_ray.config.sweep import SweepSettings
from metaug_ray.evaluation.register import register_encoder
from metaug_ray.names import slug
from metaug_ray.runtime.stored_folder import StoredFolder
from metaug_ray.runtime.words import counted
from metaug_ray.tracking.runs import RunTracker
from metaug_ray.tuning.errors import TuningError
from metaug_ray.tuning.report import Report, write_report
from metaug_ray.tuning.search import importances
from metaug_ray.tuning.trials import Trials

_SWEEPS: Final = Path("~/metaug_ray/sweeps").expanduser()
"""Folder of this machine for the reports of sweeps on an object store."""
_log = logging.getLogger(__name__)


def make_report(
    settings: SweepSettings,
    folder: StoredFolder,
    trials: Trials,
    tracker: RunTracker | None = None,
    *,
    draw: bool = True,
) -> Path:
    """Write report, tables, figures and the best settings; returns their folder.

    Args:
        settings: of the sweep.
        folder: of the sweep.
        trials: of the sweep.
        tracker: gets them too, if there is one.
        draw: whether to draw figures, which takes seconds.
    """
    where = Path(folder.location) if folder.local else _SWEEPS / settings.run.name
    where = where / "report"
    found = (
        {group: importances(space, trials.of_group(group)) for group, space in trials.spaces.items()} if draw else {}
    )
    told = Report(settings, trials.points, trials.finals, found, trials.seconds, trials.to_come())
    files = write_report(told, where, draw=draw)
    for group in trials.spaces:
        best = trials.best(group)
        if best is not None:
            name = f"best-{slug(group)}.yaml" if group else "best.yaml"
            chosen = trials.settings_at(best)
            run_name = f"{settings.run.name}-{name.removesuffix('.yaml')}"
            called = chosen.model_copy(update={"register_as": None, "name": run_name})
            (where / name).write_text(to_yaml(called), encoding="utf-8")
            files.append(where / name)
    if tracker is not None:
        for file in files:
            tracker.file(f"report/{file.name}", file.read_bytes())
    return where


def register_best(settings: SweepSettings, trials: Trials, tracker: RunTracker) -> list[str]:
    """Publish the best encoder of each group."""
    registered = []
    for group in trials.spaces:
        best = trials.best(group)
        if best is None:
            continue
        finals = [run for run in trials.finals if (run.group, run.point) == (group, best.number)]
        refits = [run for run in finals if run.purpose == "refit"]
        wanted = refits if settings.refit is not None else best.runs or finals
        candidates = [run for run in wanted if run.state == "finished"]
        if not candidates:
            _log.warning(
                "no run of the best point%s is finished, so none is registered", f" of {group}" if group else ""
            )
            continue
        chosen = max(candidates, key=lambda run: run.last)
        name = f"{settings.run.register_as}-{slug(group)}" if group else str(settings.run.register_as)
        tracking = settings.run.tracked_at(tracker.uri).tracking
        register_encoder(
            RegisterSettings(encoder=f"run:{chosen.name}", name=name, storage=settings.run.storage, tracking=tracking),
            {"metaug.sweep": settings.run.name, "metaug.sweep_run_id": tracker.run_id},
        )
        registered.append(name)
    return registered


def check_any_finished(trials: Trials, where: Path) -> None:
    """Raises :class:`TuningError` where all runs have failed."""
    failed = [run.reason for run in trials.runs if run.state == "failed"]
    if failed and len(failed) == len(trials.runs):
        most, count = Counter(failed).most_common(1)[0]
        raise TuningError(
            f"all {counted(len(failed), 'run')} failed, {count} of them so: {most}; {where}/trials.csv lists them. The "
            "same command with --search.retry-failed tries them again"
        )
