"""One worker of a run: everything that the loop needs, supplied by Ray Train."""

import os
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode
from ray.util.queue import Queue

from metaug_ray.config import PretrainSettings
from metaug_ray.data.errors import DataError
from metaug_ray.data.loader import PretrainingLoader
from metaug_ray.data.manifest import read_manifest
from metaug_ray.data.staging import staged
from metaug_ray.training.batches import minibatches
from metaug_ray.training.checkpoint import CheckpointError, load, load_networks, snapshot, write
from metaug_ray.training.errors import TrainingError
from metaug_ray.training.loop import Batches, StoppedError, train
from metaug_ray.training.messages import post
from metaug_ray.training.online_knn import OnlineKnn
from metaug_ray.training.placement import bank_bytes
from metaug_ray.training.run_folder import RunFolder, checkpoint_name
from metaug_ray.training.state import TrainingState, build_state

STOPPED = "stopped"
"""Key of the worker's result that says why the run cannot go on; absent where it is finished."""

_STAGING_TIMEOUT = timedelta(hours=12)
_META_SEED = 2**31  # past every seed that a user can give, so the meta minibatches are an order of their own


def run_worker(config: dict[str, Any]) -> dict[str, str]:
    """Train on this worker to the end of the run. Called by Ray Train on all workers.

    Args:
        config: `settings` (a `PretrainSettings` as a dictionary), `cpus` of a worker, `queue` to the driver, `record`
            that each checkpoint carries, and `fork`: storage, run name and checkpoint of a warm start, or None.

    Returns:
        Nothing, or why trying again would not help, by `STOPPED`.
    """
    settings = PretrainSettings.model_validate(config["settings"])
    rank = ray.train.get_context().get_world_rank()
    device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    else:
        torch.set_num_threads(config["cpus"])
    # Of its own, as a checkpoint is written beside the training's collectives. Nodes may stage for hours.
    group = dist.new_group(backend="gloo", timeout=_STAGING_TIMEOUT)
    observer = _RayObserver(settings, config["queue"], config["record"], group)
    try:
        # First what each worker does by itself: where one fails, none waits for it in a collective call.
        with _agreed(rank, group):
            inputs = _Inputs(settings, config, device)
        with _agreed(rank, group):
            state = _begin(settings, inputs, device, observer)
        model = state.metaug.model
        knn = None if inputs.knn is None else partial(inputs.knn.accuracy, model)
        train(settings, state, inputs.batches, observer, device=device, knn=knn)
    except StoppedError as error:
        return {STOPPED: str(error)}
    finally:
        observer.flush()
    return {}


@contextmanager
def _agreed(rank: int, group: dist.ProcessGroup) -> Iterator[None]:
    """Stop all workers with the reason of the first one that failed for a reason that trying again would not mend."""
    failure = None
    try:
        yield
    except (DataError, CheckpointError, TrainingError) as error:
        failure = f"worker {rank} on {os.uname().nodename}: {error}"
    failures: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(failures, failure, group)
    for message in failures:
        if message is not None:
            raise StoppedError(message)


class _Inputs:
    """What this worker reads; made without a word to the others."""

    def __init__(self, settings: PretrainSettings, config: dict[str, Any], device: torch.device) -> None:
        context = ray.train.get_context()
        rank, world_size = context.get_world_rank(), context.get_world_size()
        if rank == 0:
            _check_progress(settings)
        beton = staged(settings.data.beton, settings.compute.staging)
        manifest = read_manifest(beton)
        recorded = config["record"]["data"]["sha256"]
        if manifest.sha256 != recorded:
            raise DataError(
                f"{beton}: its SHA-256 is {manifest.sha256[:12]}..., where the driver saw {recorded[:12]}...; all "
                "nodes must see the same file: use a shared folder or a URI"
            )
        _check_gpu_memory(settings, manifest.samples, world_size, device)
        self.samples = manifest.samples
        make_loader = partial(
            PretrainingLoader,
            beton,
            settings.images_per_worker(world_size),
            settings.data.image_size,
            settings.data.augmentation,
            cpus=config["cpus"],
            device=device,
            rank=rank,
            world_size=world_size,
        )
        loader = make_loader(seed=settings.seed)
        separate = settings.method.generators and settings.method.meta.schedule == "separate"
        views = settings.model.views
        self.batches = Batches(
            partial(minibatches, loader, views),
            loader.steps_per_epoch,
            partial(minibatches, make_loader(seed=settings.seed + _META_SEED), views) if separate else None,
        )
        self.knn = None
        if settings.health.knn_every and manifest.classes:
            queries = settings.health.knn_beton
            self.knn = OnlineKnn(
                settings,
                beton,
                None if queries is None else staged(queries, settings.compute.staging),
                cpus=config["cpus"],
                device=device,
                rank=rank,
                world_size=world_size,
            )
        checkpoint, fork = ray.train.get_checkpoint(), config["fork"]
        self.checkpoint = checkpoint
        self.fork = fork if checkpoint is None else None
        self.fork_folder = (
            RunFolder(fork["storage"], fork["name"]).download(fork["checkpoint"]) if self.fork is not None else None
        )


def _begin(
    settings: PretrainSettings, inputs: _Inputs, device: torch.device, observer: "_RayObserver"
) -> TrainingState:
    """The state that this start of the run begins with; a collective call."""
    state = build_state(settings, inputs.samples, device)
    if inputs.checkpoint is not None:
        with inputs.checkpoint.as_directory() as folder:
            load(state, Path(folder))
        observer.note(f"goes on from step {state.step:,}")
    elif inputs.fork is not None and inputs.fork_folder is not None:
        parts = {"bank": inputs.fork["bank"] == "same", "generators": inputs.fork["generators"] == "same"}
        load_networks(state, inputs.fork_folder, **parts)
        new = [part for part, same in parts.items() if not same]
        observer.note(
            f"begins with the weights of {inputs.fork['name']}, {inputs.fork['checkpoint']}"
            + (f", but new {' and '.join(new)}" if new else "")
        )
    return state


def _check_progress(settings: PretrainSettings) -> None:
    """Count the starts from one checkpoint; the driver begins to count anew at its own start."""
    checkpoint = ray.train.get_checkpoint()
    begins = "the beginning" if checkpoint is None else checkpoint.path.rstrip("/").rpartition("/")[2]
    folder = RunFolder(settings.checkpoint.storage, settings.name)
    most = settings.compute.max_failures_in_row
    starts = folder.count_start(begins)
    if starts > most + 1:
        raise TrainingError(
            f"workers failed {starts - 1} times in a row after {begins}, and no checkpoint came in between "
            f"(compute.max_failures_in_row is {most}): it would happen again"
        )


class _RayObserver:
    """Sends measurements to the driver, and checkpoints to the run's storage."""

    def __init__(
        self, settings: PretrainSettings, queue: Queue, record: dict[str, Any], group: dist.ProcessGroup
    ) -> None:
        context = ray.train.get_context()
        self._rank, self._storage = context.get_world_rank(), context.get_storage()
        self._queue, self._record, self._group = queue, record, group
        self._mode = CheckpointUploadMode.ASYNC if settings.checkpoint.asynchronous else CheckpointUploadMode.SYNC
        # In Ray's folder for this run on this node, which goes with Ray's session.
        self._partial = Path.cwd() / f"checkpoint-of-worker-{self._rank}"
        self._writing: Future[None] | None = None
        self._sent: Any = None

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self._send("metrics", step=step, values=values)

    def histograms(self, step: int, values: dict[str, list[float]]) -> None:
        self._send("histograms", step=step, values=values)

    def note(self, text: str) -> None:
        self._send("note", text=text)

    def save(self, state: TrainingState, metrics: dict[str, float]) -> None:
        if self._writing is not None:
            # One at a time: two would mix their messages on the group.
            self._writing.result()
        copied = snapshot(state, self._group)
        self._writing = Future()
        ray.train.report(
            metrics | {"step": state.step},
            checkpoint=Checkpoint.from_directory(self._partial),
            checkpoint_dir_name=checkpoint_name(state.step),
            checkpoint_upload_mode=self._mode,
            checkpoint_upload_fn=partial(self._write, copied, self._record | {"step": state.step}, self._writing),
            delete_local_checkpoint_after_upload=True,
        )

    def flush(self) -> None:
        """Wait until the driver has what was sent, if there still is one."""
        if self._sent is not None:
            with suppress(ray.exceptions.RayError):
                ray.get(self._sent)

    def _write(
        self, copied: dict[str, Any], record: dict[str, Any], done: "Future[None]", local: Checkpoint, name: str
    ) -> Checkpoint:
        try:
            write(copied, self._partial, record, self._group, rank=self._rank)
            stored: Checkpoint = self._storage.persist_current_checkpoint(local, name)
        except BaseException as error:
            done.set_exception(error)
            raise
        done.set_result(None)
        return stored

    def _send(self, kind: str, **content: Any) -> None:
        if self._rank == 0:
            self._sent = post(self._queue, kind, **content)


def _check_gpu_memory(settings: PretrainSettings, samples: int, workers: int, device: torch.device) -> None:
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    needed = bank_bytes(settings, samples, workers)
    if needed > free:
        raise TrainingError(
            f"bank: this worker's rows of {samples:,} images take {needed / 2**30:.1f} GiB and its GPU has "
            f"{free / 2**30:.1f} GiB free; use more workers, bank.precision bfloat16, or a smaller model.feature_size"
        )
