"""Parts of a source without an image in common: a study trains, chooses and judges on different ones."""

from collections.abc import Iterator
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from metaug_ray.data.errors import DataError
from metaug_ray.data.randomness import Draws
from metaug_ray.data.sources.listing import PassedOver, Selective
from metaug_ray.data.sources.record import Record, Source


class Part:
    """The images between two shares of a source's fixed random order, in the order of the source.

    Args:
        source: the whole, whose classes are the part's.
        shares: where the part begins and ends, 0 <= begin < end <= 1.

    Raises:
        DataError: no image is in it.
    """

    def __init__(self, source: Source, shares: tuple[float, float]) -> None:
        self.classes = source.classes
        self.passed_over: dict[str, PassedOver] = source.passed_over if isinstance(source, Selective) else {}
        self._source = source
        labels = source.labels
        self._chosen = in_part(labels, shares)
        self.labels = labels[self._chosen]
        share = ",".join(f"{end:.12g}" for end in shares)
        self.described = {"part": share, "part_of": str(len(labels))}
        """What the manifest says of it."""
        if not len(self.labels):
            raise DataError(f"source.part: {share} of {len(labels):,} images holds none; give shares farther apart")

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Record]:
        return compress(self._source, self._chosen)


def in_part(labels: NDArray[np.int64], shares: tuple[float, float]) -> NDArray[np.bool_]:
    """Which images are in a part: of each class the same share, up to one image.

    Parts that share an end, such as 0 to 0.8 and 0.8 to 1, have no image in common and none between them. The choice
    depends on nothing but `labels`: no seed, no machine, no version of NumPy.

    Args:
        labels: of all images [N]; those of one number, as of all images without labels, are a class.
        shares: begin and end.

    Returns:
        bool [N].
    """
    order = np.lexsort((Draws(0, 0, np.arange(len(labels))).uniform("part"), labels))
    classes, first, of, counts = np.unique(labels[order], return_index=True, return_inverse=True, return_counts=True)
    place = np.arange(len(labels)) - first[of]
    # Rounded at another point for each class: else classes of four images would all give one to a tenth, or none.
    lots = Draws(0, 0, np.arange(len(classes))).uniform("part of a class")
    rounding = (np.argsort(np.argsort(lots)) + 0.5) / len(classes)
    begin, end = (np.floor(share * counts + rounding)[of] for share in shares)
    chosen = np.zeros(len(labels), np.bool_)
    chosen[order] = (begin <= place) & (place < end)
    return chosen
