"""Random numbers that depend on (seed, epoch, image, crop) and a name alone: not on ranks, batches or restarts."""

import zlib
from typing import Self

import numpy as np
from numpy.typing import NDArray

_STEP = np.uint64(0x9E3779B97F4A7C15)


class Draws:
    """Independent uniform numbers for every image of an epoch, each fixed by its name.

    Counter-based: the number called `name` of image n is a hash of (seed, epoch, crop, name, n), by the finaliser of
    SplitMix64 (Steele et al., "Fast splittable pseudorandom number generators", 2014). Adding an augmentation with a
    new name, or another crop, leaves all others as they were.

    Args:
        seed: of the run.
        epoch: counted from 0.
        indices: data set indices [B].
        crop: of the image, counted from 0.
    """

    def __init__(self, seed: int, epoch: int, indices: NDArray[np.int64], crop: int = 0) -> None:
        self.indices = indices
        self._key = _mix(_mix(np.array([seed], np.uint64)) + np.uint64(epoch))
        if crop:  # the first crop's numbers are those of runs from before there was another
            self._key = _mix(self._key + np.uint64(crop << 32))  # past the 32 bits of a name

    def uniform(self, name: str, low: float = 0.0, high: float = 1.0) -> NDArray[np.float64]:
        """Numbers [B] in [low, high)."""
        stream = _mix(self._key + np.uint64(zlib.crc32(name.encode())))
        bits = _mix(stream + self.indices.astype(np.uint64) * _STEP) >> np.uint64(11)
        return np.asarray(low + (high - low) * (bits * 2.0**-53), dtype=np.float64)

    def happens(self, name: str, probability: float) -> NDArray[np.bool_]:
        """Events [B], each with this probability."""
        return self.uniform(name) < probability

    def select(self, chosen: NDArray[np.bool_]) -> Self:
        """The draws of some of the images."""
        other = object.__new__(type(self))
        other.indices, other._key = self.indices[chosen], self._key
        return other


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + _STEP
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
