"""A run's workers, under Ray Train: started, watched, started again, and brought to their end."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import ray.exceptions
from ray.train import ControllerError, Result, TrainingFailedError

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.runtime.mailbox import describe_failures, listening
from metaug_ray.runtime.placement import Placement
from metaug_ray.runtime.run_folder import RunFolder
from metaug_ray.runtime.stopping import Stopping
from metaug_ray.runtime.trainer import DriverTrainer
from metaug_ray.runtime.words import counted, duration
from metaug_ray.runtime.workers import torch_trainer
from metaug_ray.tracking.runs import RunTracker
from metaug_ray.training.controller import ControllerMessages
from metaug_ray.training.errors import DamagedError, RunLostError, TrainingError
from metaug_ray.training.monitor import Monitor
from metaug_ray.training.supervision import Supervision
from metaug_ray.training.task import Stopped, WorkerTask, run_worker
from metaug_ray.training.warm_start import WarmStart

_log = logging.getLogger(__name__)


def fit(
    settings: PretrainSettings,
    folder: RunFolder,
    tracker: RunTracker,
    placement: Placement,
    record: dict[str, Any],
    warm_start: WarmStart | None,
    stopping: Stopping,
    supervision: Supervision | None = None,
) -> None:
    """Train to the end of the run on a cluster that this process is part of.

    Args:
        settings: of the run.
        folder: of the run.
        tracker: MLflow.
        placement: of the workers.
        record: of the run, which each checkpoint carries.
        warm_start: where a new run finds its weights; None without.
        stopping: how it is told to end.
        supervision: by whoever started it.

    Raises:
        SystemExit: it was stopped.
        DamagedError: the checkpoint that they were to go on from cannot be read.
        TrainingError: workers failed more often than allowed, or said that trying again would not help.
    """
    monitor = Monitor(settings, tracker, folder, stopping, None if supervision is None else supervision.measured)
    began = time.monotonic()
    try:
        with listening(monitor.take) as queue:
            task = WorkerTask(settings, placement.cpus, queue, record, warm_start)
            make_trainer = partial(
                torch_trainer,
                run_worker,
                task,
                placement,
                ControllerMessages(queue),
                name=settings.name,
                storage=folder.storage,
                max_failures=settings.compute.max_failures,
                keep=settings.checkpoint.keep,
                stopping=stopping,
                taken=monitor.machines_taken,
            )
            result = _fit_persistently(make_trainer, settings.compute.max_failures_in_row)
    except TrainingFailedError as error:
        failures = getattr(error, "worker_failures", None)
        reason = describe_failures(failures) if failures else str(error).strip().splitlines()[-1]
        raise TrainingError(
            f"{reason}; given up after {counted(monitor.restarts, 'failure')}. The same command goes on from the last "
            f"checkpoint ({(folder.checkpoints() or ['none yet'])[-1]})"
        ) from error
    except ray.exceptions.RayError as error:
        raise RunLostError(
            f"Ray lost the run ({type(error).__name__}: {str(error).splitlines()[0]}); the same command goes on from "
            "the last checkpoint"
        ) from error
    stopped: Stopped | None = result.return_value
    if stopped is not None:
        reason = f"{stopped.reason}; the last failure: {monitor.failure}" if monitor.failure else stopped.reason
        raise TrainingError(reason) if stopped.damaged is None else DamagedError(reason, stopped.damaged)
    _log.info("run %r is finished after %s", settings.name, duration(time.monotonic() - began))


def _fit_persistently(make_trainer: Callable[[], DriverTrainer], retries: int) -> Result:
    """Ray Train starts workers again that it loses in training, and gives up where it loses them as they start."""
    while True:
        try:
            return make_trainer().fit()
        except ControllerError as error:
            if not retries or not isinstance(error.controller_failure, ray.exceptions.RayError):
                raise
            retries -= 1
            reason = str(error.controller_failure).strip().splitlines()[0]
            _log.warning("Ray lost the workers while they started (%s); they are started again", reason)
