"""CIFAR-10, CIFAR-100 and STL-10 from the files that their authors distribute, read by torchvision."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100, STL10

from metaug_ray.data.errors import DataError
from metaug_ray.data.sources.classes import check_classes
from metaug_ray.data.sources.record import UNLABELLED, Record

_FOLDERS = {kind.__name__.lower(): kind.base_folder for kind in (CIFAR10, CIFAR100, STL10)}


class TorchvisionFiles:
    """A data set whose files torchvision checks by MD5 and reads into memory; nothing is downloaded.

    Args:
        name: "cifar10", "cifar100" or "stl10".
        root: the folder `cifar-10-batches-py`, `cifar-100-python` or `stl10_binary`, or the one that holds it.
        split: "train" or "test"; for STL-10 also "unlabeled" and "train+unlabeled" (label -1 where it has none).

    Raises:
        DataError: files missing or not the originals.
    """

    def __init__(self, name: str, root: Path, split: str) -> None:
        self._name = f"{name}/{split}"
        # Many name the folder of the files itself.
        root = root.parent if root.name == _FOLDERS[name] else root
        try:
            if name == "stl10":
                stl = STL10(str(root), split=split)
                pixels, labels = stl.data.transpose(0, 2, 3, 1), stl.labels
                classes = stl.classes
            else:
                cifar = (CIFAR10 if name == "cifar10" else CIFAR100)(str(root), train=split == "train")
                pixels, labels, classes = cifar.data, cifar.targets, cifar.classes
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"{root}: holds no folder {_FOLDERS[name]} with the files that its authors distribute for the split "
                f"{split!r}, or they were changed; unpack the original archive there"
            ) from error
        self._pixels = pixels
        self.labels = np.asarray(labels).astype(np.int64)
        labelled = bool((self.labels != UNLABELLED).any())
        self.classes = check_classes(classes, str(root)) if labelled else ()

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[Record]:
        for row, label in enumerate(self.labels):
            yield Record(f"{self._name}[{row}]", int(label), np.ascontiguousarray(self._pixels[row]))
