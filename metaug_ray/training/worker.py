"""One worker of a run: everything that the loop needs, supplied by Ray Train."""

import os
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import ray
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
from metaug_ray.data.staging import stage
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
    # Of its own, as a checkpoint is written beside the training's collectives.
    group = dist.new_group(backend="gloo")
    failure, run = None, None
    try:
        run = _Run(settings, config, device, group)
    except (DataError, CheckpointError, TrainingError) as error:
        failure = f"worker {rank} on {os.uname().nodename}: {error}"
    failures: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(failures, failure, group)
    for message in failures:
        if message is not None:
            return {STOPPED: message}
    assert run is not None  # or its failure was returned
    try:
        run.train()
    except StoppedError as error:
        return {STOPPED: str(error)}
    finally:
        run.observer.flush()
    return {}


class _Run:
    def __init__(
        self, settings: PretrainSettings, config: dict[str, Any], device: torch.device, group: dist.ProcessGroup
    ) -> None:
        context = ray.train.get_context()
        rank, world_size = context.get_world_rank(), context.get_world_size()
        self._settings, self._device = settings, device
        beton = _local(settings, settings.data.beton)
        manifest = read_manifest(beton)
        recorded = config["record"]["data"]["sha256"]
        if manifest.sha256 != recorded:
            raise DataError(
                f"{beton}: its SHA-256 is {manifest.sha256[:12]}..., where the driver saw {recorded[:12]}...; all "
                "nodes must see the same file: use a shared folder or a URI"
            )
        _check_gpu_memory(settings, manifest.samples, world_size, device)
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
        self._batches = Batches(
            partial(minibatches, loader, views),
            loader.steps_per_epoch,
            partial(minibatches, make_loader(seed=settings.seed + _META_SEED), views) if separate else None,
        )
        self._state = build_state(settings, manifest.samples, device)
        self._knn = None
        if settings.health.knn_every and manifest.classes:
            queries = settings.health.knn_beton
            self._knn = OnlineKnn(
                settings,
                beton,
                None if queries is None else _local(settings, queries),
                cpus=config["cpus"],
                device=device,
                rank=rank,
                world_size=world_size,
            )
        self.observer = _RayObserver(settings, config["queue"], config["record"], group)
        self._begin(config["fork"])

    def _begin(self, fork: dict[str, str] | None) -> None:
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                load(self._state, Path(folder))
            self.observer.note(f"goes on from step {self._state.step:,}")
        elif fork is not None:
            folder = RunFolder(fork["storage"], fork["name"]).download(fork["checkpoint"])
            load_networks(self._state, folder, bank=fork["bank"] == "same")
            self.observer.note(f"begins with the weights of {fork['name']}, {fork['checkpoint']}")

    def train(self) -> None:
        model = self._state.metaug.model
        train(
            self._settings,
            self._state,
            self._batches,
            self.observer,
            device=self._device,
            knn=None if self._knn is None else partial(self._knn.accuracy, model),
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
        """Wait until the driver has what was sent."""
        if self._sent is not None:
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


def _local(settings: PretrainSettings, beton: str) -> Path:
    staging = settings.compute.staging
    return Path(beton) if staging is None else stage(beton, staging)


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
