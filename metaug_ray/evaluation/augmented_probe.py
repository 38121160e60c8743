"""The full linear evaluation, as CMC's: a linear classifier trained on augmented images, by Ray Train.

This is the driver's part; `augmented_probe_worker` is what each worker does.
"""

import hashlib
import logging
import math
from typing import Final

import ray.exceptions
from ray.train import TrainingFailedError
from ray.util.queue import Queue

from metaug_ray.config.evaluate import EvaluateSettings
from metaug_ray.data.manifest import Manifest
from metaug_ray.data.order import check_shards
from metaug_ray.evaluation.augmented_probe_worker import ProbeTask, train_worker
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.readout import Readout
from metaug_ray.runtime.mailbox import FailureMessages, describe_failures, listening
from metaug_ray.runtime.messages import Message, Note, WorkersFailed
from metaug_ray.runtime.placement import Placement
from metaug_ray.runtime.stored_folder import resolved
from metaug_ray.runtime.trainer import DriverTrainer
from metaug_ray.runtime.words import counted, first_line
from metaug_ray.runtime.workers import torch_trainer

_MOST_FAILURES: Final = 3
_log = logging.getLogger(__name__)


def check_batch(settings: EvaluateSettings, train: Manifest, placement: Placement) -> None:
    """Whether the full linear evaluation's batch, if there is to be one, suits the workers and the images.

    Raises:
        EvaluationError: it does not.
        DataError: it does not divide among the shards of the data.
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
    check_shards(settings.train, len(train.shard_samples), probe.batch_size)


def train_augmented_probe(
    settings: EvaluateSettings, readout: Readout, image_size: int, train: Manifest, placement: Placement
) -> tuple[float, float]:
    """Train it to the end, or go on where an interrupted evaluation of the same encoder and settings was.

    Args:
        settings: of the evaluation, with an `augmented_probe`.
        readout: of the encoder.
        image_size: side in pixels of the square that the encoder sees.
        train: manifest of the beton to learn from.
        placement: of the workers.

    Returns:
        Top-1 and top-5 accuracy on the test images.

    Raises:
        EvaluationError: workers failed, or the classifier diverged.
    """
    epochs = counted(settings.augmented_probe.epochs if settings.augmented_probe else 0, "epoch")
    _say(f"{epochs} of augmented images on {counted(placement.workers, 'worker')}")
    _say("starting the workers, which takes a minute or so")
    failures = 0

    def take(message: Message) -> None:
        nonlocal failures
        match message:
            case WorkersFailed(text):
                failures += 1
                _say(f"{text}; failure {failures} of {_MOST_FAILURES} allowed")
            case Note(text):
                _say(text)

    try:
        with listening(take) as queue:
            result = _trainer(settings, readout, image_size, train, placement, queue).fit()
    except TrainingFailedError as error:
        failed = getattr(error, "worker_failures", None)
        reason = describe_failures(failed) if failed else first_line(error)
        raise EvaluationError(f"augmented_probe: {reason}; the same command goes on") from error
    except ray.exceptions.RayError as error:
        raise EvaluationError(f"augmented_probe: Ray failed ({first_line(error)}); the same command goes on") from error
    top1, top5 = result.return_value
    if math.isnan(top1):
        raise EvaluationError(
            "augmented_probe: the classifier diverged, its outputs are not finite numbers; lower "
            "augmented_probe.learning_rate"
        )
    _log.info("augmented_linear: %.1f%%", 100 * top1)
    return top1, top5


def _say(text: str) -> None:
    _log.info("full linear evaluation: %s", text)


def _trainer(
    settings: EvaluateSettings,
    readout: Readout,
    image_size: int,
    train: Manifest,
    placement: Placement,
    queue: Queue,
) -> DriverTrainer:
    task = ProbeTask(settings, readout.encoder, image_size, len(train.classes), placement.cpus, queue)
    return torch_trainer(
        train_worker,
        task,
        placement,
        FailureMessages(queue),
        # Names what it is of: an interrupted one goes on, another one begins anew.
        name=f"augmented-probe-{readout.checksum[:16]}-{train.sha256[:8]}-{_digest(settings, image_size)}",
        # With the runs, where all nodes reach it.
        storage=resolved(settings.storage),
        max_failures=_MOST_FAILURES,
        keep=1,
    )


def _digest(settings: EvaluateSettings, image_size: int) -> str:
    """Hash of all that the classifier depends on besides encoder and data."""
    parts = settings.model_dump_json(include={"augmented_probe", "precision"})
    return hashlib.sha256(f"{parts} {image_size}".encode()).hexdigest()[:8]
