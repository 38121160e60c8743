"""Tiny ImageNet as its authors distribute it."""

from pathlib import Path

from metaug_ray.data.errors import DataError
from metaug_ray.data.sources.classes import check_classes, lines_of
from metaug_ray.data.sources.folders import Files
from metaug_ray.data.sources.listing import Listing
from metaug_ray.data.sources.record import UNLABELLED


class TinyImageNet(Files):
    """The folders `train/<wnid>/images/`, `val/images/` with `val_annotations.txt`, and `test/images/`.

    Args:
        root: the folder that holds `wnids.txt`.
        split: "train", "val" or "test" (which has no labels).

    Raises:
        DataError: a missing file, a class without images, an image without annotation, or an annotation of an unknown
            class.
    """

    def __init__(self, root: Path, split: str) -> None:
        classes = check_classes(sorted(lines_of(root / "wnids.txt")), str(root / "wnids.txt"))
        listing = Listing()
        if split == "train":
            files = _training(root / "train", classes, listing)
        elif split == "val":
            files = _validation(root / "val", classes, listing)
        else:
            classes = ()
            files = [(image, UNLABELLED) for image in listing.images_below(root / "test" / "images")]
        if not files:
            raise DataError(f"{root}: the split {split!r} holds no images; unpack the original archive there")
        super().__init__(files, classes, listing.passed_over)


def _training(folder: Path, classes: tuple[str, ...], listing: Listing) -> list[tuple[Path, int]]:
    files = []
    for label, wnid in enumerate(classes):
        images = listing.images_below(folder / wnid)
        if not images:
            raise DataError(f"{folder / wnid}: holds no images; unpack the original archive again")
        files += [(image, label) for image in images]
    return files


def _validation(folder: Path, classes: tuple[str, ...], listing: Listing) -> list[tuple[Path, int]]:
    annotations = folder / "val_annotations.txt"
    label = {wnid: index for index, wnid in enumerate(classes)}
    wnids = {}
    for line in lines_of(annotations):
        name, separator, rest = line.partition("\t")
        if not separator:
            raise DataError(f"{annotations}: the line {line!r} has no tab; unpack the original archive again")
        wnids[name] = rest.partition("\t")[0]
    files = []
    for image in listing.images_below(folder / "images"):
        if image.name not in wnids:
            raise DataError(f"{annotations}: has no line for {image.name}; add it, or remove the image")
        wnid = wnids[image.name]
        if wnid not in label:
            raise DataError(f"{annotations}: {image.name} has class {wnid!r}, which is not in wnids.txt")
        files.append((image, label[wnid]))
    return files
