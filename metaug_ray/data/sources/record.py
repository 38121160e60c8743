"""What every source gives: images of a data set, still as they lie on disk."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

UNLABELLED = -1


@dataclass(frozen=True)
class Record:
    """One image before decoding. It is pickled to the processes that decode.

    Attributes:
        name: where the image is, for messages and the manifest: a path, or a file and a row.
        label: class in [0, classes), or `UNLABELLED`.
        image: a file to read, the bytes of one, pixels (uint8 [H, W, 3]), or a call that makes pixels.
    """

    name: str
    label: int
    image: Path | bytes | NDArray[np.uint8] | Callable[[], NDArray[np.uint8]]


class Source(Protocol):
    """A data set as the user has it: an ordered, finite, repeatable run of records.

    Attributes:
        classes: class names by label, empty where the images are unlabelled.
        labels: of all records, int64 [N], known before any image is read.
    """

    classes: tuple[str, ...]

    @property
    def labels(self) -> NDArray[np.int64]: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Record]: ...
