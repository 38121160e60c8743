"""One worker of a run: everything that the loop needs, supplied by Ray Train."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint

from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import read_manifest
from metaug_ray.data.order import training_shards
from metaug_ray.data.staging import staged
from metaug_ray.errors import LostError, UserError
from metaug_ray.runtime.device import prepare_device
from metaug_ray.runtime.errors import RESTORE, DamagedCheckpointError, StorageError
from metaug_ray.runtime.notices import announced
from metaug_ray.training.batches import Batches
from metaug_ray.training.beton_batches import open_batches
from metaug_ray.training.capacity import check_gpu_memory
from metaug_ray.training.loop import StoppedError, train
from metaug_ray.training.memory import check_step_memory
from metaug_ray.training.online_evaluation import OnlineEvaluation, open_evaluation
from metaug_ray.training.ray_observer import RayObserver
from metaug_ray.training.resume import check_progress, restore
from metaug_ray.training.state import TrainingState, build_state
from metaug_ray.training.task import Stopped, WorkerTask

_LONGEST_WAIT: Final = timedelta(hours=12)


def work(task: WorkerTask) -> Stopped | None:
    """Train on this worker to the end of the run.

    Returns:
        None where the run is finished.
    """
    settings = task.settings
    gpu_share = settings.compute.gpus_per_worker
    device = prepare_device(ray.train.torch.get_device(), task.cpus, gpu_share=gpu_share, tune=True)
    # Of its own, as a checkpoint is written beside the training's collectives. Nodes may stage for hours, and a disk
    # may take long; what all do at once waits less by itself.
    group = dist.new_group(backend="gloo", timeout=_LONGEST_WAIT)
    observer = RayObserver(settings, task.queue, task.record, group)
    try:
        # First what each worker does by itself: where one fails, none waits for it in a collective call.
        with _agreed(group):
            inputs = _open_inputs(task, device)
        with _agreed(group):
            state = _begin(task, inputs, device, observer.note, group)
        online = inputs.evaluation
        evaluate = None if online is None else partial(online.measure, state.metaug.model)
        train(settings, state, inputs.batches, observer, device=device, evaluate=evaluate, notice=announced)
    except StoppedError as error:
        if not error.damaged:
            return Stopped(str(error))
        checkpoint = ray.train.get_checkpoint()
        # Of a run that another one's checkpoint is the beginning of, there is none before it.
        return Stopped(f"{error}. {RESTORE}") if checkpoint is None else Stopped(str(error), Path(checkpoint.path).name)
    finally:
        observer.flush()
    return None


class _PassingError(Exception):
    """What may be otherwise when the workers begin again. Raised on all ranks alike."""


@contextmanager
def _agreed(group: dist.ProcessGroup) -> Iterator[None]:
    """Stop all workers with the reason of the first one that failed: for good where trying again would not mend it."""
    failure = None
    try:
        yield
    except UserError as error:
        place = f"worker {dist.get_rank()} on {os.uname().nodename}"
        damaged = isinstance(error, DamagedCheckpointError)
        what = error.what if isinstance(error, DamagedCheckpointError) else str(error)
        failure = (_may_pass(error), f"{place}: {what}", damaged)
    failures: list[tuple[bool, str, bool] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(failures, failure, group)
    found = sorted(failure for failure in failures if failure is not None)
    if found:
        passing, message, damaged = found[0]
        raise _PassingError(message) if passing else StoppedError(message, damaged=damaged)


def _may_pass(error: UserError) -> bool:
    """Whether it is of a storage that is full or away, or of a network, rather than of what somebody set."""
    if isinstance(error, StorageError | LostError):
        return True
    cause = error.__cause__
    return isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError | PermissionError)


@dataclass(frozen=True)
class _Inputs:
    """What this worker reads."""

    batches: Batches
    evaluation: OnlineEvaluation | None
    checkpoint: Checkpoint | None
    """To go on from."""


def _open_inputs(task: WorkerTask, device: torch.device) -> _Inputs:
    """Open what this worker reads, without a word to the others.

    Raises:
        UserError: it cannot, and trying again would not help.
    """
    settings, context = task.settings, ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    checkpoint = ray.train.get_checkpoint()
    if rank == 0:
        check_progress(settings, checkpoint)
    share = settings.images_per_worker(world_size)
    needed = partial(training_shards, batch_size=share, rank=rank, world_size=world_size)
    beton = staged(settings.data.beton, settings.compute.staging, needed)
    _check_same_data(beton, task.record["data"]["sha256"])
    place: dict[str, Any] = {"cpus": task.cpus, "device": device, "rank": rank, "world_size": world_size}
    batches = open_batches(settings, beton, **place)
    check_gpu_memory(settings, batches.samples, world_size, device)
    check_step_memory(settings, batches.samples, world_size, device)
    return _Inputs(batches, open_evaluation(settings, beton, **place), checkpoint)


def _check_same_data(beton: Path, recorded: str) -> None:
    sha256 = read_manifest(beton).sha256
    if sha256 != recorded:
        raise DataError(
            f"{beton}: its SHA-256 is {sha256[:12]}..., where the driver saw {recorded[:12]}...; all nodes must see "
            "the same file: use a shared folder or a URI"
        )


def _begin(
    task: WorkerTask, inputs: _Inputs, device: torch.device, note: Callable[[str], None], group: dist.ProcessGroup
) -> TrainingState:
    """The state that this start of the run begins with; a collective call."""
    state = build_state(task.settings, inputs.batches.samples, device)
    if inputs.checkpoint is not None:
        note(restore(state, inputs.checkpoint, group))
    elif task.warm_start is not None:
        note(task.warm_start.load(state, group))
    return state
