"""Which images each rank sees at each step.

Images are numbered through the shards of the data set, one after the other; a single beton is one shard.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
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


def check_shards(beton: str, shards: int, together: int, kind: OrderKind = "permutation") -> None:
    """Raises `DataError` unless a step can take as many images of each shard.

    Args:
        beton: path or URI of the data set, for the message.
        shards: of it.
        together: images of a step over all ranks.
        kind: of order.
    """
    if together % shards:
        raise DataError(
            f"{beton}: the {together:,} images of a global batch do not divide among its {shards:,} shards; use a "
            f"batch that is a multiple of {shards:,}, or prepare the data with another number of --shards"
        )
    if shards > 1 and kind == "sort":
        raise DataError(
            f"{beton}: is a data set of {shards:,} shards, of which no worker can sort all images; set data.order to "
            "permutation"
        )


def training_step_count(shards: Sequence[int], batch_size: int, world_size: int) -> int:
    """Steps of an epoch, without its remainder.

    Args:
        shards: images of each.
        batch_size: images per step on each rank.
        world_size: number of ranks.

    Raises:
        DataError: fewer images than one step over all ranks takes.
    """
    samples, together = sum(shards), batch_size * world_size
    steps = min(shards) // (together // len(shards))
    if not steps:
        raise DataError(
            f"the beton holds {samples:,} images, fewer than one global batch of {together:,} ({batch_size} on each of "
            f"{world_size} workers); use a smaller batch or more images"
        )
    return steps


def training_shards(shards: Sequence[int], batch_size: int, rank: int, world_size: int) -> range:
    """Numbers of the shards that a rank's images come from."""
    each = batch_size * world_size // len(shards)
    return range(rank * batch_size // each, ((rank + 1) * batch_size - 1) // each + 1)


class TrainingEpoch:
    """A rank's part of each step of a shuffled epoch without replacement; the remainder is dropped.

    A step takes as many images of each shard, each shard shuffled by itself, and they lie shard by shard in the global
    batch, of which the ranks take consecutive parts. So step s is the same set of images for any number of ranks that
    share the same global batch, and a rank needs few shards.

    Args:
        shards: images of each.
        batch_size: images per step on this rank.
        rank, world_size: of this worker.
        seed: of the run.
        epoch: counted from 0.
        kind: of order.

    Raises:
        DataError: fewer images than one step over all ranks takes, or a global batch that does not divide among the
            shards.
    """

    def __init__(
        self,
        shards: Sequence[int],
        batch_size: int,
        rank: int,
        world_size: int,
        seed: int,
        epoch: int,
        kind: OrderKind = "permutation",
    ) -> None:
        check_shards("the data set", len(shards), batch_size * world_size, kind)
        self._steps = training_step_count(shards, batch_size, world_size)
        self._batch_size, self._each = batch_size, batch_size * world_size // len(shards)
        first, offsets = rank * batch_size, [0, *accumulate(shards)]
        self._parts = [
            (
                offsets[shard],
                _order(shards[shard], seed, epoch, shard, kind),
                # Which of the step's images of this shard are the rank's.
                np.arange(max(first - shard * self._each, 0), min(first + batch_size - shard * self._each, self._each)),
            )
            for shard in training_shards(shards, batch_size, rank, world_size)
        ]

    def blocks(self, start: int = 0) -> Iterator[NDArray[np.int64]]:
        """Indices [n, batch_size] of the n next steps from `start` on, to the end of the epoch; n is as convenient."""
        for steps in _blocks(start, self._steps, self._batch_size):
            places = steps[:, None] * self._each
            yield np.concatenate([offset + order[places + part] for offset, order, part in self._parts], axis=1)


def _order(samples: int, seed: int, epoch: int, shard: int, kind: OrderKind) -> Permutation | NDArray[np.int64]:
    if kind == "permutation":
        return Permutation(samples, seed, epoch, shard)
    return np.argsort(Draws(seed, epoch, np.arange(samples)).uniform("order"), kind="stable")


def evaluation_step_count(samples: int, batch_size: int, world_size: int) -> int:
    """Steps that each rank makes, so that together they see all images."""
    return -(-samples // (batch_size * world_size))


def evaluation_part(samples: int, rank: int, world_size: int) -> range:
    """A rank's part of all images in order: consecutive ones, as even as can be; the last ranks may have none."""
    each = -(-samples // world_size)
    return range(min(rank * each, samples), min((rank + 1) * each, samples))


def evaluation_steps(
    samples: int, batch_size: int, rank: int, world_size: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.bool_]]]:
    """A rank's part of all images in order, padded so that every rank makes the same number of full steps.

    Yields:
        Positions and validity, each [n, batch_size], of the n next steps; n is as convenient. Every image is valid
        exactly once over the ranks; what is not valid is padding, and repeats the image before.
    """
    part = evaluation_part(samples, rank, world_size)
    for steps in _blocks(0, evaluation_step_count(samples, batch_size, world_size), batch_size):
        positions = part.start + steps[:, None] * batch_size + np.arange(batch_size)
        yield np.minimum(positions, part.stop - 1), positions < part.stop


def evaluation_shards(
    shards: Sequence[int], rank: int, world_size: int, images: NDArray[np.int64] | None = None
) -> list[int]:
    """Numbers of the shards that a rank's images come from.

    Args:
        shards: images of each.
        rank, world_size: of this worker.
        images: indices of the images wanted, in order; None: all.
    """
    ends = np.cumsum(shards)
    part = evaluation_part(int(ends[-1]) if images is None else len(images), rank, world_size)
    # A rank without images is padded by the last one.
    first, last = min(part.start, part.stop - 1), part.stop - 1
    if images is not None:
        return sorted(set(np.searchsorted(ends, images[first : last + 1], side="right").tolist()))
    low, high = np.searchsorted(ends, [first, last], side="right").tolist()
    return list(range(low, high + 1))


def _blocks(start: int, stop: int, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """Numbers of steps, so many at a time that their images are neither one by one nor too many to hold."""
    at_once = max(1, _IMAGES_AT_ONCE // batch_size)
    for first in range(start, stop, at_once):
        yield np.arange(first, min(first + at_once, stop))
