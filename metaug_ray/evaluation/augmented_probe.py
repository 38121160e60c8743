"""The full linear evaluation, as CMC's: a linear classifier trained on augmented images, by Ray Train.

The encoder stays as it is: no gradients, and batch norm in evaluation mode.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import ray.exceptions
import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
import torch.nn.functional as F
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Queue
from torch import Tensor, nn

from metaug_ray.config import AugmentedProbeSettings, EvaluateSettings
from metaug_ray.data.loader import EvaluationLoader, PretrainingLoader
from metaug_ray.data.manifest import Manifest
from metaug_ray.data.staging import staged
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.networks import Readout
from metaug_ray.method import distributed
from metaug_ray.training.errors import first_line
from metaug_ray.training.messages import FailureMessages, describe_failures, listening, post
from metaug_ray.training.placement import Placement
from metaug_ray.training.progress_line import counted, duration
from metaug_ray.training.run_folder import RunFolder

_STATE = "classifier.pt"
_SECONDS_PER_LINE = 30
_MOST_FAILURES = 3


def check_batch(settings: EvaluateSettings, train: Manifest, placement: Placement) -> None:
    """Whether the full linear evaluation's batch, if there is to be one, suits the workers and the images.

    Raises:
        EvaluationError: it does not.
    """
    probe = settings.augmented_probe
    if probe is None:
        return
    share, rest = divmod(probe.batch_size, placement.workers)
    if rest or share < 2:
        raise EvaluationError(
            f"augmented_probe.batch_size: {probe.batch_size} among {counted(placement.workers, 'worker')} is "
            f"{probe.batch_size / placement.workers:g} for each; expected a whole number, and at least 2 for batch norm"
        )
    if train.samples < probe.batch_size:
        raise EvaluationError(
            f"augmented_probe.batch_size: {probe.batch_size} images, but {settings.train} holds {train.samples:,}"
        )


def train_augmented_probe(
    settings: EvaluateSettings,
    probe: AugmentedProbeSettings,
    readout: Readout,
    image_size: int,
    train: Manifest,
    placement: Placement,
    say: Callable[[str], None],
) -> tuple[float, float]:
    """Train it to the end, or go on where an interrupted evaluation of the same encoder and settings was.

    Returns:
        Top-1 and top-5 accuracy on the test images.

    Raises:
        EvaluationError: workers failed.
    """
    say(
        f"full linear evaluation: {counted(probe.epochs, 'epoch')} of augmented images on "
        f"{counted(placement.workers, 'worker')}"
    )
    say("full linear evaluation: starting the workers, which takes a minute or so")
    failures = 0

    def take(message: dict[str, Any]) -> None:
        nonlocal failures
        text = message["text"]
        if message["kind"] == "failure":
            failures += 1
            text = f"{text}; failure {failures} of {_MOST_FAILURES} allowed"
        say(f"full linear evaluation: {text}")

    try:
        with listening(take, say) as queue:
            result = _trainer(settings, readout, image_size, train, placement, queue).fit()
    except TrainingFailedError as error:
        failed = getattr(error, "worker_failures", None)
        reason = describe_failures(failed) if failed else first_line(error)
        raise EvaluationError(f"augmented_probe: {reason}; the same command goes on") from error
    except ray.exceptions.RayError as error:
        raise EvaluationError(f"augmented_probe: Ray failed ({first_line(error)}); the same command goes on") from error
    top1, top5 = result.return_value
    say(f"augmented_linear: {top1:.1%}")
    return top1, top5


def _trainer(
    settings: EvaluateSettings,
    readout: Readout,
    image_size: int,
    train: Manifest,
    placement: Placement,
    queue: Queue,
) -> TorchTrainer:
    return TorchTrainer(
        _run,
        train_loop_config={
            "settings": settings.model_dump(mode="json"),
            "encoder": readout.encoder,
            "image_size": image_size,
            "classes": len(train.classes),
            "cpus": placement.cpus,
            "queue": queue,
        },
        scaling_config=ScalingConfig(
            num_workers=placement.workers,
            use_gpu=placement.gpu,
            resources_per_worker=placement.worker,
        ),
        torch_config=TorchConfig(backend=placement.backend),
        run_config=RunConfig(
            # Names what it is of: an interrupted one goes on, another one begins anew.
            name=f"augmented-probe-{readout.checksum[:16]}-{train.sha256[:8]}-{_digest(settings, image_size)}",
            # With the runs, where all nodes reach it.
            storage_path=RunFolder(settings.storage, "").storage,
            failure_config=FailureConfig(max_failures=_MOST_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[FailureMessages(queue)],
            worker_runtime_env=placement.runtime_env,
        ),
    )


def _digest(settings: EvaluateSettings, image_size: int) -> str:
    """Of all that the classifier depends on besides encoder and data."""
    parts = settings.model_dump_json(include={"augmented_probe", "precision"})
    return hashlib.sha256(f"{parts} {image_size}".encode()).hexdigest()[:8]


def _run(config: dict[str, Any]) -> tuple[float, float]:
    """On each worker; all return the accuracies over all test images."""
    settings = EvaluateSettings.model_validate(config["settings"])
    probe = settings.augmented_probe
    if probe is None:
        raise ValueError("augmented_probe is not set")
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        torch.set_num_threads(config["cpus"])
    encoder = config["encoder"].to(device, memory_format=torch.channels_last)
    classifier = nn.Linear(encoder.representation_size, config["classes"]).to(device)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    # Batch norm without parameters takes the place of a learning rate for each encoder, as in MAE's linear probes.
    model = nn.Sequential(nn.BatchNorm1d(encoder.representation_size, affine=False), classifier).to(device)
    ddp = nn.parallel.DistributedDataParallel(model, broadcast_buffers=True)
    optimizer = torch.optim.SGD(
        classifier.parameters(), lr=probe.learning_rate, momentum=0.9, weight_decay=probe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, probe.epochs)
    start = 0
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            state = torch.load(Path(folder, _STATE), map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        start = state["epoch"]
    options = {"cpus": config["cpus"], "device": device, "rank": rank, "world_size": world_size}
    size = config["image_size"]
    loader = PretrainingLoader(
        staged(settings.train, settings.compute.staging),
        probe.batch_size // world_size,
        size,
        probe.augmentation,
        seed=0,
        **options,
    )
    progress = _Progress(config["queue"] if rank == 0 else None, loader.steps_per_epoch, probe.epochs, start)
    for epoch in range(start, probe.epochs):
        for batch in loader.epoch(epoch):
            logits = ddp(_represent(settings, encoder, batch.images))
            # A batch may hold no labelled image.
            labelled = (batch.labels >= 0).sum().clamp_min(1)
            loss = F.cross_entropy(logits, batch.labels, ignore_index=-1, reduction="sum") / labelled
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            progress.step(loss.detach())
        schedule.step()
        _save(model, optimizer, schedule, epoch + 1, rank)
    progress.say("trained; the test images are next")
    # After the last step each rank has batch-norm statistics of its own; the first one's are those that are saved.
    distributed.broadcast_buffers(model)
    model.eval()
    evaluation = EvaluationLoader(
        staged(settings.test, settings.compute.staging), settings.batch_size, size, crop=settings.crop, **options
    )
    right = torch.zeros(3, dtype=torch.float64, device=device)
    with torch.inference_mode():
        for batch in evaluation:
            counted = batch.valid & (batch.labels >= 0)
            logits = model(_represent(settings, encoder, batch.images))[counted]
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices == batch.labels[counted][:, None]
            right += torch.stack([best[:, 0].sum(), best.sum(), counted.sum()])
    right = distributed.all_reduce(right, dist.ReduceOp.SUM)
    return float(right[0] / right[2]), float(right[1] / right[2])


class _Progress:
    """Tells the driver how far training is; nothing waits for losses in between."""

    def __init__(self, queue: Queue | None, steps_per_epoch: int, epochs: int, start: int) -> None:
        self._queue, self._steps_per_epoch, self._epochs = queue, steps_per_epoch, epochs
        self._first = self._step = start * steps_per_epoch
        self._began = time.monotonic()
        # The first line comes sooner.
        self._told = self._began - _SECONDS_PER_LINE * 2 / 3
        self._since, self._loss = 0, torch.zeros(())
        if start:
            self.say(f"goes on after epoch {start} of {epochs}")

    def say(self, text: str) -> None:
        if self._queue is not None:
            post(self._queue, "note", text=text)

    def step(self, loss: Tensor) -> None:
        self._step += 1
        self._since += 1
        self._loss = loss if self._since == 1 else self._loss + loss
        now = time.monotonic()
        if now < self._told + _SECONDS_PER_LINE:
            return
        left = self._epochs * self._steps_per_epoch - self._step
        seconds = left * (now - self._began) / (self._step - self._first)
        self.say(
            f"epoch {self._step / self._steps_per_epoch:.2f} of {self._epochs} | loss {self._loss / self._since:.4f} | "
            f"{duration(seconds)} left"
        )
        self._told, self._since = now, 0


def _represent(settings: EvaluateSettings, encoder: nn.Module, images: Tensor) -> Tensor:
    mixed = settings.precision == "bfloat16"
    autocast = torch.autocast(images.device.type, torch.bfloat16) if mixed else nullcontext()
    with torch.no_grad(), autocast:
        representations: Tensor = encoder(images)
    return representations.float()


def _save(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    epoch: int,
    rank: int,
) -> None:
    """Report the end of an epoch, which all workers must; the first one's state is what is kept."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        if rank == 0:
            state = {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "schedule": schedule.state_dict(),
                "epoch": epoch,
            }
            torch.save(state, Path(folder, _STATE))
            checkpoint = Checkpoint.from_directory(folder)
        ray.train.report({"epoch": epoch}, checkpoint=checkpoint, checkpoint_dir_name=f"epoch_{epoch:04d}")
