"""Which images each rank sees at each step."""

import numpy as np
from numpy.typing import NDArray

from metaug_ray.data.errors import DataError
from metaug_ray.data.randomness import Draws


def check_natural(name: str, value: int, least: int = 0) -> None:
    """Raises `TypeError` unless `value` is an integer, and `ValueError` unless it is from `least` to 2**63 - 1."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} is {value!r}, expected an integer")
    if not least <= value < 1 << 63:
        raise ValueError(f"{name} is {value}, expected at least {least} and less than 2**63")


def check_part(batch_size: int, rank: int, world_size: int) -> None:
    """Raises as `check_natural`, or `ValueError` unless the rank is one of the world's."""
    check_natural("batch_size", batch_size, 1)
    check_natural("world_size", world_size, 1)
    check_natural("rank", rank)
    if rank >= world_size:
        raise ValueError(f"rank is {rank}, expected 0 to {world_size - 1} in a world of {world_size}")


def training_step_count(samples: int, batch_size: int, world_size: int) -> int:
    """Steps of an epoch, without its remainder.

    Raises:
        DataError: fewer images than one step over all ranks takes.
    """
    together = batch_size * world_size
    if samples < together:
        raise DataError(
            f"the beton holds {samples:,} images, fewer than one global batch of {together:,} ({batch_size} on each of "
            f"{world_size} workers); use a smaller batch or more images"
        )
    return samples // together


def training_steps(
    samples: int, batch_size: int, rank: int, world_size: int, seed: int, epoch: int
) -> NDArray[np.int64]:
    """A rank's part of a shuffled epoch without replacement; the remainder is dropped.

    Step s of the epoch is the same set of `batch_size` * `world_size` images for any number of ranks that share that
    product: the ranks take consecutive parts of it.

    Returns:
        Indices [steps, batch_size].

    Raises:
        DataError: fewer images than one step over all ranks takes.
    """
    steps = training_step_count(samples, batch_size, world_size)
    order = np.argsort(Draws(seed, epoch, np.arange(samples)).uniform("order"), kind="stable")
    used = steps * world_size * batch_size
    return order[:used].reshape(steps, world_size, batch_size)[:, rank]


def evaluation_steps(
    samples: int, batch_size: int, rank: int, world_size: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """A rank's part of all images in order, padded so that every rank makes the same number of full steps.

    Returns:
        Indices and validity, each [steps, batch_size]. Every image is valid exactly once over the ranks; what is not
        valid is padding, and repeats images.
    """
    together = batch_size * world_size
    positions = np.arange(-(-samples // together) * together)
    parts = positions.reshape(-1, world_size, batch_size)[:, rank]
    return parts % samples, parts < samples
