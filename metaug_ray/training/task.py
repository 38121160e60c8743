"""What the driver gives each worker; quick to import, as the driver holds it, but never runs it."""

import os
from dataclasses import dataclass
from typing import Any

from ray.util.queue import Queue

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.training.warm_start import WarmStart


@dataclass(frozen=True)
class WorkerTask:
    """What the driver gives each worker.

    Attributes:
        settings: of the run.
        cpus: of this worker.
        queue: to the driver.
        record: that each checkpoint carries.
        warm_start: where a new run finds its weights; None without.
    """

    settings: PretrainSettings
    cpus: int
    queue: Queue
    record: dict[str, Any]
    warm_start: WarmStart | None


@dataclass(frozen=True)
class Stopped:
    """Why trying again would not help.

    Attributes:
        reason: in words.
        damaged: name of the checkpoint that cannot be read; None where that is not the reason.
    """

    reason: str
    damaged: str | None = None


def run_worker(config: dict[str, WorkerTask]) -> Stopped | None:
    """Train on this worker to the end of the run. Called by Ray Train on all workers.

    Args:
        config: the `task`.

    Returns:
        None where the run is finished.
    """
    # Of numba, which is imported next: it makes as many threads as the machine has CPUs, whatever a worker's share is.
    os.environ["NUMBA_NUM_THREADS"] = str(config["task"].cpus)
    from metaug_ray.training.worker import work

    return work(config["task"])
