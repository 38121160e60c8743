"""Which images each rank sees at each step."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from metaug_ray.choices import OrderKind
from metaug_ray.data.errors import DataError
from metaug_ray.data.permutation import Permutation
from metaug_ray.data.randomness import Draws

_IMAGES_AT_ONCE: Final = 1 << 13


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


class TrainingEpoch:
    """A rank's part of each step of a shuffled epoch without replacement; the remainder is dropped.

    Step s of the epoch is the same set of `batch_size` * `world_size` images for any number of ranks that share that
    product: the ranks take consecutive parts of it.

    Args:
        samples: N, images in the data set.
        batch_size: images per step on this rank.
        rank, world_size: of this worker.
        seed: of the run.
        epoch: counted from 0.
        kind: of order.

    Raises:
        DataError: fewer images than one step over all ranks takes.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        rank: int,
        world_size: int,
        seed: int,
        epoch: int,
        kind: OrderKind = "permutation",
    ) -> None:
        self._steps = training_step_count(samples, batch_size, world_size)
        self._batch_size, self._together, self._first = batch_size, batch_size * world_size, rank * batch_size
        self._order = (
            Permutation(samples, seed, epoch)
            if kind == "permutation"
            else np.argsort(Draws(seed, epoch, np.arange(samples)).uniform("order"), kind="stable")
        )

    def blocks(self, start: int = 0) -> Iterator[NDArray[np.int64]]:
        """Indices [n, batch_size] of the n next steps from `start` on, to the end of the epoch; n is as convenient."""
        for steps in _blocks(start, self._steps, self._batch_size):
            yield self._order[steps[:, None] * self._together + self._first + np.arange(self._batch_size)]


def evaluation_steps(
    samples: int, batch_size: int, rank: int, world_size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """A rank's part of all images in order, padded so that every rank makes the same number of full steps.

    Yields:
        Positions and validity, each [n, batch_size], of the n next steps; n is as convenient. Every image is valid
        exactly once over the ranks; what is not valid is padding, and repeats images.
    """
    together = batch_size * world_size
    for steps in _blocks(0, evaluation_step_count(samples, batch_size, world_size), batch_size):
        positions = steps[:, None] * together + rank * batch_size + np.arange(batch_size)
        yield positions % samples, positions < samples


def evaluation_step_count(samples: int, batch_size: int, world_size: int) -> int:
    """Steps that each rank makes, so that together they see all images."""
    return -(-samples // (batch_size * world_size))


def _blocks(start: int, stop: int, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of steps, so many at a time that their images are neither one by one nor too many to hold."""
    at_once = max(1, _IMAGES_AT_ONCE // batch_size)
    for first in range(start, stop, at_once):
        yield np.arange(first, min(first + at_once, stop))
