"""Resuming a run: whether it may go on with given settings, and what its next start begins with."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from ray.train import Checkpoint

from metaug_ray.config.base import explain
from metaug_ray.config.contrasts import CONTRASTS
from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.config.recorded import fixed_settings, lost, read_fixed
from metaug_ray.runtime.checkpoint_files import CheckpointFiles
from metaug_ray.runtime.errors import StorageError
from metaug_ray.runtime.run_folder import RunFolder
from metaug_ray.training.errors import TrainingError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    from metaug_ray.training.state import TrainingState

_log = logging.getLogger(__name__)


def check_resumable(
    recorded: dict[str, Any], settings: PretrainSettings, sha256: str, checkpoints: Sequence[str]
) -> None:
    """Compare a run's record, by this version or an earlier one, with what it shall go on with.

    More epochs are no difference where the schedule of learning rates does not depend on their number: the run is
    lengthened (:func:`lengthened`).

    Args:
        recorded: the run's record: `fixed` settings and `data` with its `sha256`.
        settings: the new ones.
        sha256: of the beton that they name.
        checkpoints: of the run.

    Raises:
        TrainingError: they differ in what results depend on; the message says where.
    """
    try:
        old = read_fixed(recorded["fixed"])
    except ValidationError as error:
        raise TrainingError(
            f"name: run {settings.name!r} was made by a version of metaug_ray that this one cannot go on with "
            f"({explain(error)}); use that version, or give a new --name"
        ) from error
    if change := lost(recorded["fixed"]):
        _log.warning(change)
    new = fixed_settings(settings)
    # Parameters of another contrast say no more than its name.
    for contrast in CONTRASTS:
        if not (contrast in old["method"] and contrast in new["method"]):
            old["method"].pop(contrast, None)
            new["method"].pop(contrast, None)
    epochs, more = old["training"].pop("epochs"), new["training"].pop("epochs")
    changed = differences(old, new)
    if obstacle := why_not_as_long(epochs, more, settings.training.schedule.kind):
        changed.append(f"  training.epochs: {epochs} -> {more} ({obstacle})")
    # Whoever goes on need not say again what the run began with.
    if settings.fork is not None and settings.fork != recorded.get("fork"):
        changed.insert(0, f"  fork: {recorded.get('fork')} -> {settings.fork}")
    if recorded["data"]["sha256"] != sha256:
        changed.append(
            f"  data.beton: {recorded['data']['beton']} (SHA-256 {recorded['data']['sha256'][:12]}...) -> "
            f"{settings.data.beton} (SHA-256 {sha256[:12]}...)"
        )
    if changed:
        listed = "\n".join(changed)
        others = [line for line in changed if line.startswith("  model.") and "prediction_hidden_size" not in line]
        advice = "begin a new run: --name NEW"
        if others:
            advice += " (its weights fit other networks only)"
        elif checkpoints:
            advice = f"begin a new run with its weights: --name NEW --fork {settings.name}"
        else:
            advice += " (this one has no checkpoint yet)"
        raise TrainingError(
            f"name: run {settings.name!r} was made with other settings:\n{listed}\nGo on with the old ones, or {advice}"
        )


def lengthened(recorded: dict[str, Any], settings: PretrainSettings) -> dict[str, Any]:
    """The record of a run that :func:`check_resumable` lets go on, with as many epochs as it is to have from now on.

    Where these are more, the run is finished no longer, and `lengthened` lists the numbers that it had before.
    """
    before, epochs = recorded["fixed"]["training"]["epochs"], settings.training.epochs
    if before == epochs:
        return recorded
    changed: dict[str, Any] = {
        name: recorded[name] | {"training": recorded[name]["training"] | {"epochs": epochs}}
        for name in ("settings", "fixed")
    }
    changed["lengthened"] = [*recorded.get("lengthened", []), before]
    return {name: value for name, value in recorded.items() if name != "finished"} | changed


def restore(state: "TrainingState", checkpoint: Checkpoint, group: "ProcessGroup | None" = None) -> str:
    """Take over a checkpoint of this run; returns what was done, in words. A collective call.

    Args:
        state: of this rank.
        checkpoint: of the run.
        group: a group of all ranks that can communicate CPU tensors; None for the default one.

    Raises:
        CheckpointError: it cannot be read.
    """
    from metaug_ray.runtime.checkpoint import load

    # Straight from the storage: as a directory it would be copied whole to each node, the rows of all workers with it.
    load(state, CheckpointFiles(checkpoint.path, checkpoint.filesystem), group)
    return f"goes on from step {state.step:,}"


def check_progress(settings: PretrainSettings, checkpoint: Checkpoint | None) -> None:
    """Count the workers' starts from one checkpoint; the driver begins to count anew at its own start.

    Raises:
        TrainingError: there were too many.
    """
    begins = "the beginning" if checkpoint is None else checkpoint.path.rstrip("/").rpartition("/")[2]
    folder = RunFolder(settings.storage, settings.name)
    most = settings.compute.max_failures_in_row
    try:
        starts = folder.count_start(begins)
    except StorageError as error:  # a full disk, say, is no reason not to begin
        _log.warning("this start is not counted (%s)", error)
        return
    if starts > most + 1:
        raise TrainingError(
            f"workers failed {starts - 1} times in a row after {begins}, and no checkpoint came in between "
            f"(compute.max_failures_in_row is {most}): it would happen again"
        )


def why_not_as_long(epochs: int, more: int, schedule: str) -> str | None:
    """Why a run of so many epochs cannot have that number instead; None where it can."""
    if more > epochs and schedule == "cosine":
        return "a cosine schedule depends on their number from the first step on"
    return "a run can be lengthened, not shortened" if more < epochs else None


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """A line for each setting, by its dotted name, that is not the same."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in differences(old.get(key, "absent"), new.get(key, "absent"), f"{name}.{key}" if name else key)
        ]
    return [] if old == new else [f"  {name}: {old} -> {new}"]
