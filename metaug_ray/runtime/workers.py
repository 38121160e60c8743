"""Ray Train's workers, as a placement has them: the same for training and for the full linear evaluation."""

from collections.abc import Callable
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, UserCallback

from metaug_ray.runtime.gloo_interface import ReachableTorchConfig
from metaug_ray.runtime.placement import Placement
from metaug_ray.runtime.stopping import Stopping
from metaug_ray.runtime.trainer import DriverTrainer


def torch_trainer(
    work: Callable[[dict[str, Any]], Any],
    task: object,
    placement: Placement,
    callback: UserCallback,
    *,
    name: str,
    storage: str,
    max_failures: int,
    keep: int,
    stopping: Stopping | None = None,
    taken: Callable[[str], None] = lambda _: None,
) -> DriverTrainer:
    """A trainer whose `fit` runs `work` on all workers, from the last checkpoint under this name on.

    Args:
        work: what each worker does; it gets a dictionary with the `task`.
        task: what it needs to know.
        placement: of the workers; elastic where there may be several numbers of them.
        callback: of Ray Train's controller.
        name: of the folder for checkpoints.
        storage: folder or URI that it lies in.
        max_failures: failures of workers after each of which it goes on.
        keep: number of the last checkpoints that stay.
        stopping: ends it when it says so.
        taken: is told when workers begin again because machines were taken away, which is no failure.
    """
    elastic = len(placement.counts) > 1
    trainer = DriverTrainer(
        work,
        train_loop_config={"task": task},
        scaling_config=ScalingConfig(
            num_workers=(placement.min_workers, placement.workers) if elastic else placement.workers,
            use_gpu=placement.gpu,
            resources_per_worker=placement.worker,
        ),
        torch_config=ReachableTorchConfig(backend=placement.backend),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            failure_config=FailureConfig(max_failures=max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=keep),
            callbacks=[callback],
        ),
    )
    trainer.counts = placement.counts
    trainer.stopping, trainer.taken = stopping or Stopping(), taken
    return trainer
