"""What a rank reads: endless rows of minibatches, from any step of a run on. Needs no Ray."""

from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.data.loader import PretrainingLoader
from metaug_ray.method.algorithm import Minibatch
from metaug_ray.method.views import split_views

_META_SEED = 2**31  # past every seed that a user can give, so the meta minibatches are an order of their own


@dataclass(frozen=True)
class Batches:
    """Where one rank's minibatches come from: each source gives those from a step on, and is closed when the loop ends.

    Attributes:
        samples: N, images in the data set.
        steps_per_epoch: of the regular ones.
        regular: those of the regular steps.
        meta: those of the meta steps of the `separate` schedule, counted by themselves; None for `fused`.
    """

    samples: int
    steps_per_epoch: int
    regular: Callable[[int], Generator[Minibatch]]
    meta: Callable[[int], Generator[Minibatch]] | None = None


def open_batches(
    settings: PretrainSettings, beton: Path, *, cpus: int, device: torch.device, rank: int = 0, world_size: int = 1
) -> Batches:
    """The minibatches of one rank of a run.

    Args:
        settings: of the run.
        beton: local file with its manifest beside it: the training data as this rank reads it.
        cpus: number of CPUs that decode for this rank.
        device: where the images go.
        rank, world_size: of this process.

    Raises:
        DataError: the beton is missing or broken, or holds fewer images than a batch.
        ValueError: the batch does not divide among the ranks.
    """
    make_loader = partial(
        PretrainingLoader,
        beton,
        settings.images_per_worker(world_size),
        settings.data.image_size,
        settings.data.augmentation,
        cpus=cpus,
        device=device,
        rank=rank,
        world_size=world_size,
    )
    loader = make_loader(seed=settings.seed)
    views = settings.model.views
    separate = settings.method.generators and settings.method.meta.schedule == "separate"
    return Batches(
        loader.samples,
        loader.steps_per_epoch,
        partial(_minibatches, loader, views),
        partial(_minibatches, make_loader(seed=settings.seed + _META_SEED), views) if separate else None,
    )


def _minibatches(loader: PretrainingLoader, views: tuple[str, ...], start: int = 0) -> Generator[Minibatch]:
    """This rank's minibatches from the run's step `start` on: those that an uninterrupted run would still have had."""
    epoch, step = divmod(start, loader.steps_per_epoch)
    while True:
        for batch in loader.epoch(epoch, step):
            yield Minibatch(split_views(batch.images, views), batch.indices)
        epoch, step = epoch + 1, 0
