"""Minibatches of a rank from a beton, by FFCV. Needs no Ray."""

from pathlib import Path

import torch

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.data.loader import PretrainingLoader
from metaug_ray.training.batches import Batches, batches_of


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
    share = settings.images_per_worker(world_size)

    def make_loader(seed: int) -> PretrainingLoader:
        return PretrainingLoader(
            beton,
            share,
            settings.data.image_size,
            settings.crop_augmentations,
            seed=seed,
            order=settings.data.order,
            cpus=cpus,
            device=device,
            rank=rank,
            world_size=world_size,
            # Who asks whom for which rows of the bank is then known without a word between the ranks.
            all_ranks=settings.method.targets == "bank",
        )

    return batches_of(settings, make_loader)
