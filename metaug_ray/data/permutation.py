"""A random order of images of which each part is computed by itself."""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from metaug_ray.data.randomness import Draws

_ROUNDS: Final = 8


class Permutation:
    """A pseudo-random permutation of 0 to N - 1, fixed by its key (seed, epoch, shard), that holds nothing of size N.

    A balanced Feistel network (Luby and Rackoff 1988) over pairs of numbers below the least even S > sqrt(N) permutes
    S * S numbers; what is not below N is sent through again until it is, which leaves a permutation of the N (the
    "cycle-walking" of Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).

    Args:
        samples: N.
        seed: of the run.
        epoch: counted from 0.
        shard: of the data set, counted from 0.
    """

    def __init__(self, samples: int, seed: int, epoch: int, shard: int = 0) -> None:
        self._samples, self._seed, self._epoch, self._shard = samples, seed, epoch, shard
        # Even: all turns of an odd circle are even permutations, and half of the orders would hardly come.
        self._side = 2 * (math.isqrt(samples) // 2 + 1)

    def __getitem__(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers at these positions, each from 0 to N - 1, of the same shape."""
        numbers = self._through_network(positions)
        outside = np.nonzero(numbers >= self._samples)
        while len(outside[0]):
            numbers[outside] = again = self._through_network(numbers[outside])
            still = again >= self._samples
            outside = tuple(axis[still] for axis in outside)
        return numbers

    def _through_network(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        left, right = np.divmod(numbers, self._side)
        for turn in range(_ROUNDS):
            draws = Draws(self._seed, self._epoch, right)
            moved = left + draws.uniform(f"order {turn} of shard {self._shard}", 0, self._side).astype(np.int64)
            left, right = right, np.where(moved < self._side, moved, moved - self._side)
        return left * self._side + right
