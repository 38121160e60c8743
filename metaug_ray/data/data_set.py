"""A data set as one process reads it: one beton, or some shards of many."""

from collections.abc import Iterator
from pathlib import Path
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import Manifest, check_shard, read_manifest
from metaug_ray.data.mapped import MappedBeton, Stored, open_beton


class DataSet:
    """Images of all shards under one numbering: an index is a shard's offset and the number within.

    A shard is opened when it is asked for; only those need to be there. Threads may ask at the same time.

    Args:
        path: of a beton or of a folder of shards, with the manifest beside it.

    Raises:
        DataError: it, or its manifest, is missing or broken.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._manifest = read_manifest(path)
        self.shards = self._manifest.shard_samples
        """Images of each."""
        self._ends = np.cumsum(self.shards)
        self._opened: dict[int, MappedBeton] = {}
        self._opening = Lock()

    def __len__(self) -> int:
        return self._manifest.samples

    def stored(self, indices: NDArray[np.int64]) -> Stored:
        """Where images [n] lie, as :meth:`MappedBeton.stored` says, and raises."""
        found = np.empty((len(Stored._fields), len(indices)), np.int64)
        for shard, places, within in self._split(indices):
            found[:, places] = shard.stored(within)
        return Stored(*found)

    def labels(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Labels [n] of images [n], -1 where there is none."""
        found = np.empty(len(indices), np.int64)
        for shard, places, within in self._split(indices):
            found[places] = shard.labels[within]
        return found

    def _split(
        self, indices: NDArray[np.int64]
    ) -> Iterator[tuple[MappedBeton, NDArray[np.intp] | slice, NDArray[np.int64]]]:
        """Each shard that some images are of, with their places among all and their numbers in it."""
        if len(self.shards) == 1:
            yield self.shard(0), slice(None), indices
            return
        of = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(of).tolist():
            places = np.flatnonzero(of == number)
            yield self.shard(number), places, indices[places] - (self._ends[number] - self.shards[number])

    def shard(self, number: int) -> MappedBeton:
        """A shard, by its number.

        Raises:
            DataError: it is missing, or another one than the manifest says.
        """
        # Addresses within a map that was made twice would outlive one of the two.
        with self._opening:
            if number not in self._opened:
                self._opened[number] = self._open(number)
            return self._opened[number]

    def _open(self, number: int) -> MappedBeton:
        path, samples = shard_path(self._path, self._manifest, number), self.shards[number]
        if self._manifest.shards:
            check_shard(path, self._manifest.shards[number])
        beton = open_beton(path)
        if len(beton) != samples:
            raise DataError(
                f"{path}: holds {len(beton):,} images where its manifest says {samples:,}; the manifest belongs to "
                "another beton: copy both again, or prepare the data again"
            )
        return beton


def shard_path(path: Path, manifest: Manifest, number: int) -> Path:
    """Where a shard of a data set lies; one without shards is its own."""
    return path / manifest.shards[number].name if manifest.shards else path
