"""Image files in folders: ImageNet's layout and unlabelled trees."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from metaug_ray.data.errors import DataError
from metaug_ray.data.sources.classes import check_classes, labels_of, shortened
from metaug_ray.data.sources.listing import Listing, PassedOver, holds_betons
from metaug_ray.data.sources.record import UNLABELLED, Record

_SPLITS = {"train", "training", "val", "valid", "validation", "dev", "test", "testing", "eval"}


class Files:
    """Image files with a label each, in a fixed order.

    Args:
        files: with their labels.
        classes: names by label.
        passed_over: what else was found, by the reason.
    """

    def __init__(
        self, files: list[tuple[Path, int]], classes: tuple[str, ...], passed_over: dict[str, PassedOver]
    ) -> None:
        self.classes = classes
        self.passed_over = passed_over
        self.labels = np.array([label for _, label in files], np.int64)
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Record]:
        for file, label in self._files:
            yield Record(str(file), label, file)


class ImageFolder(Files):
    """ImageNet's layout: `root/<class>/**/<image>`, classes and files in alphabetical order (as torchvision's).

    What is hidden (`.git`, `._1.png`) is left out, and so are folders that hold betons and no images.

    Args:
        root: the folder of the class folders.
        classes: names of all classes, in the order of their labels; one of them may have no images, and no folder. By
            default the folders are the classes, and each holds images.

    Raises:
        DataError: not a folder, no images, an empty or unreadable class folder, images beside the class folders, splits
            in the place of classes, a folder that is none of `classes`, and what `check_classes` finds.
    """

    def __init__(self, root: Path, classes: Sequence[str] | None = None) -> None:
        listing = Listing()
        entries = listing.entries(root)
        folders = {entry.name: entry for entry in entries if entry.is_dir()}
        _check_no_stray(root, [entry for entry in entries if not entry.is_dir() and listing.is_image(entry)])
        _check_no_splits(root, folders)
        images = {name: listing.images_below(folder) for name, folder in folders.items()}
        images = {name: files for name, files in images.items() if files or not holds_betons(folders[name])}
        if not images:
            raise DataError(
                f"{root}: found no class folders and no images{listing.told()}; point --source.path at a folder that "
                "has some"
            )
        classes = _check_own_classes(root, images) if classes is None else classes
        labels = labels_of(images, classes, str(root))
        files = [(image, labels[name]) for name in sorted(images, key=labels.__getitem__) for image in images[name]]
        if not files:
            raise DataError(
                f"{root}: its class folders hold no images{listing.told()}; point --source.path at a folder that has "
                "some"
            )
        super().__init__(files, tuple(classes), listing.passed_over)


class UnlabelledFolder(Files):
    """Every image below a folder, without labels, in alphabetical order of their paths.

    Raises:
        DataError: not a folder, no images, or a folder that cannot be read.
    """

    def __init__(self, root: Path) -> None:
        listing = Listing()
        images = listing.images_below(root)
        if not images:
            raise DataError(
                f"{root}: found no images in it or below{listing.told()}; point --source.path at a folder that has some"
            )
        super().__init__([(image, UNLABELLED) for image in images], (), listing.passed_over)


def _check_no_stray(root: Path, stray: list[Path]) -> None:
    if stray:
        raise DataError(
            f"{root}: {len(stray)} images, such as {stray[0].name}, lie outside any class folder; move them into "
            "one, or pass --source.unlabelled to take every image below the folder without labels"
        )


def _check_no_splits(root: Path, folders: dict[str, Path]) -> None:
    """Whether the folders are parts of the data set, each with the classes in it."""
    splits = [name for name in folders if name.casefold() in _SPLITS]
    if len(splits) < 2:
        return
    below = [{entry.name for entry in Listing().entries(folders[name]) if entry.is_dir()} for name in splits]
    if len(splits) == len(folders) or below[0] & below[1]:
        raise DataError(
            f"{root}: its folders {shortened(splits)} are called as the splits of a data set, not as classes; point "
            f"--source.path at one of them, such as {folders[splits[0]]}, pass --source.unlabelled to take the images "
            "of all without labels, or rename them if they are classes"
        )


def _check_own_classes(root: Path, images: dict[str, list[Path]]) -> tuple[str, ...]:
    if len(images) == 1:
        (name,) = images
        inner = [entry for entry in Listing().entries(root / name) if entry.is_dir()]
        if len(inner) > 1:
            raise DataError(
                f"{root}: found 1 class ({name!r}), expected at least 2; its {len(inner)} folders may be the classes: "
                f"point --source.path at {root / name}"
            )
    classes = check_classes(images, str(root))
    empty = [name for name, files in images.items() if not files]
    if empty:
        raise DataError(
            f"{root / empty[0]}: this class folder holds no images; fill it or remove it, or say by --source.classes "
            "that the class is there (the beton to compare with, or a text file with a class on each line)"
        )
    return classes
