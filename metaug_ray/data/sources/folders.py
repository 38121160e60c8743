"""Image files in folders: ImageNet's layout, unlabelled trees, Tiny ImageNet's layout."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from metaug_ray.data.errors import DataError
from metaug_ray.data.sources.classes import check_classes
from metaug_ray.data.sources.record import UNLABELLED, Record

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


class _Files:
    """Image files with a label each, in a fixed order."""

    def __init__(self, files: list[tuple[Path, int]], classes: tuple[str, ...]) -> None:
        self.classes = classes
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Record]:
        for file, label in self._files:
            yield Record(str(file), label, file)


class ImageFolder(_Files):
    """ImageNet's layout: `root/<class>/**/<image>`, classes and files in alphabetical order (as torchvision's).

    What is hidden (`.git`, `._1.png`) is left out.

    Raises:
        DataError: not a folder, no images, an empty or unreadable class folder, images beside the class folders, and
            what `check_classes` finds.
    """

    def __init__(self, root: Path) -> None:
        entries = _entries(root)
        folders = [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
        stray = [entry for entry in entries if _is_image(entry)]
        if stray:
            raise DataError(
                f"{root}: {len(stray)} images, such as {stray[0].name}, lie outside any class folder; move them into "
                "one, or pass --source.unlabelled to take every image below the folder without labels"
            )
        if not folders:
            raise DataError(
                f"{root}: found no class folders and no images; point --source.path at a folder that has some"
            )
        classes = check_classes((folder.name for folder in folders), str(root))
        files = []
        for label, folder in enumerate(folders):
            images = _images_below(folder)
            if not images:
                raise DataError(f"{folder}: this class folder holds no images; fill it or remove it")
            files += [(image, label) for image in images]
        super().__init__(files, classes)


class UnlabelledFolder(_Files):
    """Every image below a folder, without labels, in alphabetical order of their paths.

    Raises:
        DataError: not a folder, no images, or a folder that cannot be read.
    """

    def __init__(self, root: Path) -> None:
        _entries(root)
        images = _images_below(root)
        if not images:
            raise DataError(f"{root}: found no images ({', '.join(IMAGE_SUFFIXES)}) in it or below")
        super().__init__([(image, UNLABELLED) for image in images], ())


class TinyImageNet(_Files):
    """Tiny ImageNet as distributed: `train/<wnid>/images/`, `val/images/` with `val_annotations.txt`, `test/images/`.

    Args:
        root: the folder that holds `wnids.txt`.
        split: "train", "val" or "test" (which has no labels).

    Raises:
        DataError: a missing file, an image without annotation, or an annotation of an unknown class.
    """

    def __init__(self, root: Path, split: str) -> None:
        classes = check_classes(sorted(_lines(root / "wnids.txt")), str(root / "wnids.txt"))
        label = {wnid: index for index, wnid in enumerate(classes)}
        if split == "train":
            files = [(image, label[wnid]) for wnid in classes for image in _images_below(root / "train" / wnid)]
        elif split == "val":
            annotations = root / "val" / "val_annotations.txt"
            wnids = dict(line.split("\t")[:2] for line in _lines(annotations))
            files = []
            for image in _images_below(root / "val" / "images"):
                wnid = wnids.get(image.name)
                if wnid not in label:
                    raise DataError(f"{annotations}: {image.name} has class {wnid!r}, which is not in wnids.txt")
                files.append((image, label[wnid]))
        else:
            classes = ()
            files = [(image, UNLABELLED) for image in _images_below(root / "test" / "images")]
        if not files:
            raise DataError(f"{root}: the split {split!r} holds no images")
        super().__init__(files, classes)


def _entries(root: Path) -> list[Path]:
    try:
        return sorted(root.iterdir())
    except OSError as error:
        _unreadable(error)


def _images_below(root: Path) -> list[Path]:
    """Sorted image files under `root`; links are followed, but no folder is entered twice."""
    images = []
    visited = set()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=_unreadable):
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in visited:
            subfolders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        images += [file for name in files if _is_image(file := Path(folder, name))]
    return sorted(images)


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".")


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        _unreadable(error)


def _unreadable(error: OSError) -> NoReturn:
    raise DataError(
        f"{error.filename}: cannot be read ({error.strerror}); check the path and its permissions"
    ) from error
