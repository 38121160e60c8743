"""Settings of `jobs/prepare_data.py`."""

from glob import has_magic
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from metaug_ray.choices import SPLITS, SourceKind
from metaug_ray.config.base import LocalPath, Location, Settings
from metaug_ray.names import readable


class SourceSettings(Settings):
    """Where images come from."""

    kind: SourceKind
    """layout of the data set on disk; `shapes` is generated"""
    path: Location | None = None
    """folder (imagefolder, cifar10, cifar100, stl10, tiny_imagenet), or file, folder or glob (parquet)"""
    split: str | None = None
    """part of the data set; default the first of: cifar train, test; stl10 unlabeled, train, test, train+unlabeled;
    tiny_imagenet train, val, test"""
    unlabelled: bool = False
    """take the images without labels (imagefolder: every image below the folder)"""
    image_column: str = "image"
    """column of the images (parquet)"""
    label_column: str = "label"
    """column of the labels (parquet)"""
    classes: Location | None = None
    """names of all classes, of which some may have no images here: a beton that has them, such as the training's, or a
    text file with one on each line in the order of their labels (imagefolder, parquet); default those that are found"""
    part: tuple[float, float] | None = None
    """take the images between these two shares of a fixed random order, such as 0.8,0.9 for the ninth tenth: parts that
    do not overlap have no image in common, and have the classes of the whole"""
    count: int = Field(10_000, ge=10)
    """number of images (shapes)"""
    size: int = Field(64, ge=16, le=512)
    """side of an image in pixels (shapes)"""
    seed: int = Field(0, ge=0)
    """random seed: another one gives other images (shapes)"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "shapes":
            if self.path is not None:
                raise ValueError(f"path: shapes are generated and read no path (got {self.path!r}); leave it out")
        elif self.path is None:
            raise ValueError(
                f"path: the source {self.kind!r} needs the path of its files (none stands for no path; a folder "
                "of that name is ./none)"
            )
        # Where nothing matches a glob of Parquet files, the source says so.
        elif not Path(self.path).exists() and not (self.kind == "parquet" and has_magic(self.path)):
            hint = "; images are read from this machine's folders, so copy or mount them" if "://" in self.path else ""
            raise ValueError(f"path: {self.path} does not exist{hint}")
        allowed = SPLITS.get(self.kind, ())
        if self.split is not None and self.split not in allowed:
            choice = f"choose from {', '.join(allowed)}" if allowed else "it has none; name the files by the path"
            raise ValueError(f"split: the source {self.kind!r} has no split {self.split!r}; {choice}")
        if self.unlabelled and self.kind not in ("imagefolder", "parquet"):
            raise ValueError(f"unlabelled: only imagefolder and parquet can drop labels, not {self.kind!r}")
        self._check_classes()
        if self.part is not None and not 0 <= self.part[0] < self.part[1] <= 1:
            raise ValueError(
                f"part: got {self.part[0]:g},{self.part[1]:g}; expected two shares from 0 to 1, the lesser first, such "
                "as 0.8,0.9"
            )
        return self

    def _check_classes(self) -> None:
        if self.classes is None:
            return
        if self.kind not in ("imagefolder", "parquet"):
            raise ValueError(f"classes: the source {self.kind!r} has its own; leave them out")
        if self.unlabelled:
            raise ValueError("classes: images without labels have none; leave out classes or unlabelled")
        if "://" not in self.classes and not Path(self.classes).exists():
            raise ValueError(f"classes: there is no {self.classes}; give a beton or a text file")

    @property
    def resolved_split(self) -> str | None:
        """The split, by default the first that the source has."""
        return self.split or next(iter(SPLITS.get(self.kind, ())), None)


EncodingKind = Literal["raw", "jpeg", "mixed"]
EncodingPreset = Literal["imagenet", "imagenet-fast", "small"]

BEST_JPEG_QUALITY: Final = 93
"""Above it the error of libjpeg-turbo's fast transform, by which FFCV decodes, outgrows what the quality gains."""

# Kind and greatest side.
_PRESETS: Final[dict[EncodingPreset, tuple[EncodingKind, int]]] = {
    "imagenet": ("jpeg", 512),
    "imagenet-fast": ("mixed", 256),
    "small": ("raw", 128),
}


class EncodingSettings(Settings):
    """How images are stored in a beton; what is left out comes from the preset."""

    preset: EncodingPreset
    """imagenet: JPEG, quality 90, at most 512 px; imagenet-fast: half JPEG, half raw, at most 256 px; small: raw
    pixels, at most 128 px"""
    kind: EncodingKind | None = None
    """raw pixels, JPEG, or a share of each"""
    max_resolution: int | None = Field(None, ge=8, le=4096)
    """longer side in pixels; larger images are shrunk"""
    jpeg_quality: int | None = Field(None, ge=1, le=100)
    """quality of JPEG, 1 to 93; default 90"""
    jpeg_fraction: float | None = Field(None, gt=0, lt=1)
    """share of the images that `mixed` stores as JPEG; default 0.5"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        kind = self.resolved_kind
        if kind == "raw" and self.jpeg_quality is not None:
            raise ValueError(f"jpeg_quality: raw pixels have none (got {self.jpeg_quality}); set kind to jpeg or mixed")
        if self.jpeg_quality is not None and self.jpeg_quality > BEST_JPEG_QUALITY:
            raise ValueError(
                f"jpeg_quality: above {BEST_JPEG_QUALITY} the fast decoder of FFCV comes out farther from the pixels, "
                f"not nearer (got {self.jpeg_quality}); give at most {BEST_JPEG_QUALITY}, or leave it out and store "
                "exact pixels by --encoding.kind raw"
            )
        if kind != "mixed" and self.jpeg_fraction is not None:
            raise ValueError(f"jpeg_fraction: only mixed has one, not {kind} (got {self.jpeg_fraction})")
        return self

    @property
    def resolved_kind(self) -> EncodingKind:
        """The kind that was set, or the preset's."""
        return self.kind or _PRESETS[self.preset][0]

    @property
    def resolved_max_resolution(self) -> int:
        """The greatest side that was set, or the preset's, in pixels."""
        return self.max_resolution or _PRESETS[self.preset][1]


class PrepareSettings(Settings):
    """Writing one beton, or a data set of many."""

    source: SourceSettings
    """where images come from"""
    encoding: EncodingSettings
    """how images are stored"""
    output: LocalPath
    """beton to write, such as data/train.beton; its manifest is written beside it"""
    shards: int = Field(1, ge=1, le=99_999)
    """betons that the images are dealt to, one after another, in a folder that is called as the output: for data sets
    that are too large for each node's disk; a global batch must be a multiple of it"""
    workers: int | None = Field(None, ge=1, le=1024)
    """processes that decode and encode; default one for every CPU that this process may use"""
    overwrite: bool = False
    """replace an existing beton, once the new one is verified"""
    skip_unreadable: bool = False
    """leave out images that cannot be decoded and list them in the manifest, instead of stopping"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.output.suffix != ".beton":
            raise ValueError(f"output: {self.output} must end in .beton")
        if readable(str(self.output)) != str(self.output):
            raise ValueError(
                f"output: {readable(str(self.output))} has a line break, or a byte that is not UTF-8, so that no run "
                "could name it; choose another"
            )
        return self
