"""The images that a run is planned for, where they need not be there yet."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metaug_ray.config.plan import CapacitySettings
from metaug_ray.data.staging import find_manifest

_IMAGENET: Final = 1_281_167
_STORED: Final = 55 * 1024


@dataclass(frozen=True)
class DataSet:
    """How many images, and how large.

    Attributes:
        images: N.
        bytes_per_image: as stored in a beton.
        images_from: where the former is from, in words.
        bytes_from: where the latter is.
        shards: that the images were dealt to.
        shards_from: where that is from.
    """

    images: int
    bytes_per_image: float
    images_from: str
    bytes_from: str
    shards: int = 1
    shards_from: str = "given"

    @property
    def bytes(self) -> float:
        """Of the beton, or of all shards."""
        return self.images * self.bytes_per_image

    def bytes_on(self, nodes: int) -> float:
        """Of the shards that one of so many nodes needs: its part, and one that it shares with another node."""
        return self.bytes / self.shards * min(self.shards, math.ceil(self.shards / nodes) + 1)


def data_set_of(settings: CapacitySettings) -> DataSet:
    """What the settings say, else what the beton's manifest does, else ImageNet.

    Raises:
        DataError: the beton is there and its manifest is not, or is broken, or a URI cannot be reached.
    """
    plan, beton = settings.plan, settings.run.data.beton
    images, size, shards = plan.images, plan.bytes_per_image, plan.shards
    images_from = bytes_from = shards_from = "given"
    if images is None or size is None or shards is None:
        if "://" in beton or Path(beton).exists():
            manifest = find_manifest(beton)
            found, stored, where = manifest.samples, manifest.bytes / manifest.samples, beton
            where_stored, dealt = beton, len(manifest.shard_samples)
        else:
            found, stored, where = _IMAGENET, float(_STORED), f"ImageNet's, as there is no {beton}"
            where_stored, dealt = "ImageNet's with --encoding.preset imagenet (docs/data.md)", 1
        if images is None:
            images, images_from = found, where
        if size is None:
            size, bytes_from = stored, where_stored
        if shards is None:
            shards, shards_from = dealt, where
    return DataSet(images, size, images_from, bytes_from, shards, shards_from)
