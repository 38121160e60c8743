"""Betons that images were dealt to: verified, and described by their manifests."""

import datetime
import importlib.metadata
import platform
from array import array
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metaug_ray.config.prepare import SourceSettings
from metaug_ray.data.beton import BetonWriter, verify_beton
from metaug_ray.data.encoding import EncodedImage, Encoding
from metaug_ray.data.manifest import Manifest, Shard, manifest_path, sha256_of_shards
from metaug_ray.data.mapped import open_beton
from metaug_ray.data.sources.part import Part
from metaug_ray.data.sources.record import Source

_TOOLS = ("metaug-ray", "ffcv", "opencv-python", "pillow", "numpy", "pyarrow", "torchvision")


class DealtShard:
    """A beton while it is written, and what it is compared with when it is read back: eight bytes an image.

    Args:
        stack: that closes it.
        path: of the beton.
        capacity: number of images at most.
    """

    def __init__(self, stack: ExitStack, path: Path, capacity: int) -> None:
        self.path = path
        self.labels, self.crcs = array("i"), array("I")
        self._writer = stack.enter_context(BetonWriter(path, capacity))

    def add(self, image: EncodedImage) -> None:
        """Writes one image."""
        self._writer.append(image)
        self.labels.append(image.label)
        self.crcs.append(image.crc)


@dataclass(frozen=True)
class Making:
    """How all shards are made, for their manifests.

    Attributes:
        settings: of the source.
        source: of the images.
        encoding: of each.
    """

    settings: SourceSettings
    source: Source
    encoding: Encoding

    def manifest_of(self, shard: DealtShard, progress: Callable[[int], object]) -> Manifest:
        """The manifest of a finished beton, once it is verified; `progress` is told of the bytes that are read.

        Raises:
            DataError: it is not what was written.
        """
        labels = np.frombuffer(shard.labels, np.int32)
        sha256 = verify_beton(shard.path, labels, shard.crcs, progress)
        beton, encoding, source = open_beton(shard.path), self.encoding, self.source
        return Manifest(
            source=_described(self.settings) | (source.described if isinstance(source, Part) else {}),
            samples=len(labels),
            classes=list(source.classes),
            class_counts=_class_counts(labels, len(source.classes)),
            encoding={
                "kind": encoding.kind,
                "max_resolution": encoding.max_resolution,
                **({} if encoding.kind == "raw" else {"jpeg_quality": encoding.jpeg_quality}),
                **({"jpeg_fraction": encoding.jpeg_fraction} if encoding.kind == "mixed" else {}),
            },
            height=(int(beton.heights.min()), int(beton.heights.max())),
            width=(int(beton.widths.min()), int(beton.widths.max())),
            bytes=shard.path.stat().st_size,
            sha256=sha256,
            created=datetime.datetime.now(datetime.UTC).replace(microsecond=0),
            versions={"python": platform.python_version()}
            | {tool: importlib.metadata.version(tool) for tool in _TOOLS},
        )


def united(shards: Sequence[DealtShard], manifests: Sequence[Manifest]) -> Manifest:
    """The manifest of a data set; each shard's own is written beside it."""
    listed = []
    for number, (shard, manifest) in enumerate(zip(shards, manifests, strict=True)):
        named = {"shard": f"{number} of {len(shards)}"}
        own = manifest.model_copy(update={"source": manifest.source | named})
        manifest_path(shard.path).write_text(own.model_dump_json(indent=2) + "\n", encoding="utf-8")
        listed.append(Shard(name=shard.path.name, samples=own.samples, bytes=own.bytes, sha256=own.sha256))
    return Manifest(
        source=manifests[0].source,
        samples=sum(own.samples for own in manifests),
        classes=manifests[0].classes,
        class_counts=np.sum([own.class_counts for own in manifests], axis=0, dtype=np.int64).tolist(),
        encoding=manifests[0].encoding,
        height=(min(own.height[0] for own in manifests), max(own.height[1] for own in manifests)),
        width=(min(own.width[0] for own in manifests), max(own.width[1] for own in manifests)),
        bytes=sum(own.bytes for own in manifests),
        sha256=sha256_of_shards(listed),
        created=manifests[-1].created,
        versions=manifests[0].versions,
        shards=listed,
    )


def _described(source: SourceSettings) -> dict[str, str]:
    """What was read, for the manifest: the settings that this kind of source heeds."""
    described: dict[str, str] = {"kind": source.kind}
    if source.kind == "shapes":
        return described | {name: str(getattr(source, name)) for name in ("count", "size", "seed")}
    described["path"] = str(source.path)
    if source.resolved_split:
        described["split"] = source.resolved_split
    if source.unlabelled:
        described["unlabelled"] = "true"
    if source.classes is not None:
        described["classes"] = str(source.classes)
    return described


def _class_counts(labels: NDArray[np.integer], classes: int) -> list[int]:
    return np.bincount(labels[labels >= 0], minlength=classes).tolist() if classes else []
