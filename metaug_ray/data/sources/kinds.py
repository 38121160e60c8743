"""The sources by the names that users choose them by."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from metaug_ray.choices import SourceKind, check_complete
from metaug_ray.config.prepare import SourceSettings
from metaug_ray.data.sources.classes import read_classes
from metaug_ray.data.sources.folders import ImageFolder, UnlabelledFolder
from metaug_ray.data.sources.parquet import ParquetShards
from metaug_ray.data.sources.part import Part
from metaug_ray.data.sources.record import Source
from metaug_ray.data.sources.shapes import Shapes
from metaug_ray.data.sources.tiny_imagenet import TinyImageNet


def open_source(settings: SourceSettings) -> Source:
    """The source that the settings describe, or the part of it that they ask for.

    Raises:
        DataError: as the source's class says, or a part without images.
    """
    source = _SOURCES[settings.kind](settings)
    return source if settings.part is None else Part(source, settings.part)


def _path(settings: SourceSettings) -> Path:
    return Path(settings.path or ".")


def _folder(settings: SourceSettings) -> Source:
    path = _path(settings)
    return UnlabelledFolder(path) if settings.unlabelled else ImageFolder(path, _classes(settings))


def _parquet(settings: SourceSettings) -> Source:
    label_column = None if settings.unlabelled else settings.label_column
    return ParquetShards(str(_path(settings)), settings.image_column, label_column, _classes(settings))


def _classes(settings: SourceSettings) -> tuple[str, ...] | None:
    return None if settings.classes is None else read_classes(settings.classes)


def _torchvision(settings: SourceSettings) -> Source:
    # Torchvision takes seconds to import.
    from metaug_ray.data.sources.torchvision_files import TorchvisionFiles

    return TorchvisionFiles(settings.kind, _path(settings), str(settings.resolved_split))


_SOURCES: Final[Mapping[SourceKind, Callable[[SourceSettings], Source]]] = {
    "imagefolder": _folder,
    "parquet": _parquet,
    "cifar10": _torchvision,
    "cifar100": _torchvision,
    "stl10": _torchvision,
    "tiny_imagenet": lambda settings: TinyImageNet(_path(settings), str(settings.resolved_split)),
    "shapes": lambda settings: Shapes(settings.count, settings.size, settings.seed),
}
check_complete("the table of sources", _SOURCES, SourceKind)
