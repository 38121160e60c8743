"""One worker of the full linear evaluation.

The encoder stays as it is: no gradients, and batch norm in evaluation mode.
"""

import math
import pickle
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
import torch.nn.functional as F
from ray.train import Checkpoint
from ray.util.queue import Queue
from torch import Tensor, nn

from metaug_ray.config.evaluate import AugmentedProbeSettings, EvaluateSettings
from metaug_ray.config.model import Precision
from metaug_ray.data.loader import EvaluationLoader, PretrainingLoader
from metaug_ray.data.order import evaluation_shards, training_shards
from metaug_ray.data.staging import staged
from metaug_ray.evaluation.accuracy import right_in_top
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.method import distributed
from metaug_ray.method.frozen import FrozenEncoder
from metaug_ray.method.precision import autocast
from metaug_ray.runtime.device import autocast_dtype, prepare_device
from metaug_ray.runtime.mailbox import post
from metaug_ray.runtime.messages import Note
from metaug_ray.runtime.words import duration

_STATE: Final = "classifier.pt"
_SECONDS_PER_LINE: Final = 30


@dataclass(frozen=True)
class ProbeTask:
    """What the driver gives each worker.

    Attributes:
        settings: of the evaluation, with an `augmented_probe`.
        encoder: to be judged.
        image_size: side in pixels of the square that it sees.
        classes: C.
        cpus: of this worker.
        queue: to the driver.
    """

    settings: EvaluateSettings
    encoder: FrozenEncoder
    image_size: int
    classes: int
    cpus: int
    queue: Queue

    @property
    def probe(self) -> AugmentedProbeSettings:
        """Settings of the classifier."""
        probe = self.settings.augmented_probe
        if probe is None:
            raise ValueError("augmented_probe is not set")
        return probe


def train_worker(config: dict[str, ProbeTask]) -> tuple[float, float]:
    """Train the classifier on this worker, and judge it. Called by Ray Train on all workers.

    Returns:
        Top-1 and top-5 accuracy over all test images, the same on all workers; NaN where the classifier diverged.
    """
    task = config["task"]
    settings, probe, context = task.settings, task.probe, ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    gpu_share = settings.compute.gpus_per_worker
    device = prepare_device(ray.train.torch.get_device(), task.cpus, gpu_share=gpu_share)
    encoder = task.encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    represent = _Represent(encoder, settings.precision)
    training = _Training.begin(probe, encoder.representation_size, task.classes, device)
    place: dict[str, Any] = {"cpus": task.cpus, "device": device, "rank": rank, "world_size": world_size}
    share = probe.batch_size // world_size
    needed = partial(training_shards, batch_size=share, rank=rank, world_size=world_size)
    loader = PretrainingLoader(
        staged(settings.train, settings.compute.staging, needed),
        share,
        task.image_size,
        probe.augmentation,
        seed=0,
        **place,
    )
    progress = _Progress(task.queue if rank == 0 else None, loader.steps_per_epoch, probe.epochs, training.epoch)
    while training.epoch < probe.epochs:
        for batch in loader.epoch(training.epoch):
            progress.step(training.step(represent(batch.images), batch.labels))
        training.end_epoch(rank)
    progress.say("trained; the test images are next")
    test = EvaluationLoader(
        staged(settings.test, settings.compute.staging, partial(evaluation_shards, rank=rank, world_size=world_size)),
        settings.batch_size,
        task.image_size,
        crop=settings.crop,
        **place,
    )
    return _accuracies(training.model, represent, test, device)


@dataclass(frozen=True)
class _Represent:
    """Images [B, 3, H, W] to representations, float32 [B, H]."""

    encoder: FrozenEncoder
    precision: Precision

    def __call__(self, images: Tensor) -> Tensor:
        with torch.no_grad(), autocast(images.device, autocast_dtype(self.precision)):
            representations: Tensor = self.encoder(images)
        return representations.float()


def read_state(folder: Path, device: torch.device) -> dict[str, Any]:
    """What :meth:`_Training.end_epoch` wrote: tensors, numbers and text alone.

    Raises:
        EvaluationError: it is something else, or damaged.
    """
    try:
        state: dict[str, Any] = torch.load(folder / _STATE, map_location=device, weights_only=True)
    # On damaged bytes torch raises either.
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise EvaluationError(
            f"{folder}: the checkpoint of a full linear evaluation is damaged or names code, and nothing was run; "
            "remove it, and the evaluation begins anew"
        ) from error
    return state


@dataclass
class _Training:
    """The classifier and its optimiser, after `epoch` epochs."""

    model: nn.Module
    ddp: nn.parallel.DistributedDataParallel
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LRScheduler
    epoch: int = 0

    @classmethod
    def begin(cls, probe: AugmentedProbeSettings, size: int, classes: int, device: torch.device) -> "_Training":
        """At the beginning, or where the last checkpoint was written."""
        classifier = nn.Linear(size, classes).to(device)
        nn.init.zeros_(classifier.weight)
        nn.init.zeros_(classifier.bias)
        # Batch norm without parameters takes the place of a learning rate for each encoder, as in MAE's linear probes.
        model = nn.Sequential(nn.BatchNorm1d(size, affine=False), classifier).to(device)
        optimizer = torch.optim.SGD(
            classifier.parameters(), lr=probe.learning_rate, momentum=0.9, weight_decay=probe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, probe.epochs)
        ddp = nn.parallel.DistributedDataParallel(model, broadcast_buffers=True)
        training = cls(model, ddp, optimizer, schedule)
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is not None:
            with checkpoint.as_directory() as folder:
                state = read_state(Path(folder), device)
            model.load_state_dict(state["model"])
            optimizer.load_state_dict(state["optimizer"])
            schedule.load_state_dict(state["schedule"])
            training.epoch = state["epoch"]
        return training

    def step(self, representations: Tensor, labels: Tensor) -> Tensor:
        """Learn from one batch; returns its loss. Images without a label (-1) do not count."""
        # A batch may hold no labelled image.
        labelled = (labels >= 0).sum().clamp_min(1)
        loss = F.cross_entropy(self.ddp(representations), labels, ignore_index=-1, reduction="sum") / labelled
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def end_epoch(self, rank: int) -> None:
        """Report the end of an epoch, which all workers must; the first one's state is what is kept."""
        self.schedule.step()
        self.epoch += 1
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank == 0:
                state = {
                    "model": self.model.state_dict(),
                    "optimizer": self.optimizer.state_dict(),
                    "schedule": self.schedule.state_dict(),
                    "epoch": self.epoch,
                }
                torch.save(state, Path(folder, _STATE))
                checkpoint = Checkpoint.from_directory(folder)
            name = f"epoch_{self.epoch:04d}"
            ray.train.report({"epoch": self.epoch}, checkpoint=checkpoint, checkpoint_dir_name=name)


def _accuracies(
    model: nn.Module, represent: _Represent, test: EvaluationLoader, device: torch.device
) -> tuple[float, float]:
    # After the last step each rank has batch-norm statistics of its own; the first one's are those that are saved.
    distributed.broadcast_buffers(model)
    model.eval()
    right = torch.zeros(4, dtype=torch.float64, device=device)
    with torch.inference_mode():
        for batch in test:
            counted = batch.valid & (batch.labels >= 0)
            logits, labels = model(represent(batch.images))[counted], batch.labels[counted]
            counts = [right_in_top(logits, labels, k).sum() for k in (1, 5)] + [counted.sum()]
            right += torch.stack([*counts, (~logits.isfinite()).sum()])
    top1, top5, total, broken = distributed.all_reduce(right, dist.ReduceOp.SUM).tolist()
    return (math.nan, math.nan) if broken else (top1 / total, top5 / total)


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
            post(self._queue, Note(text))

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
