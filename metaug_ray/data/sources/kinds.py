"""The sources by the names that users choose them by."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from metaug_ray.choices import SourceKind, check_complete
from metaug_ray.config.prepare import SourceSettings
from metaug_ray.data.sources.folders import ImageFolder, TinyImageNet, UnlabelledFolder
from metaug_ray.data.sources.parquet import ParquetShards
from metaug_ray.data.sources.record import Source
from metaug_ray.data.sources.shapes import Shapes


def open_source(settings: SourceSettings) -> Source:
    """The source that the settings describe.

    Raises:
        DataError: as the source's class says.
    """
    return _SOURCES[settings.kind](settings)


def _path(settings: SourceSettings) -> Path:
    return Path(settings.path or ".")


def _folder(settings: SourceSettings) -> Source:
    return UnlabelledFolder(_path(settings)) if settings.unlabelled else ImageFolder(_path(settings))


def _parquet(settings: SourceSettings) -> Source:
    label_column = None if settings.unlabelled else settings.label_column
    return ParquetShards(str(_path(settings)), settings.image_column, label_column)


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
