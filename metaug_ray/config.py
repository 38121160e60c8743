"""Everything a user can set, as frozen pydantic models that refuse unknown fields and values out of range."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class Settings(BaseModel):
    """Base of all settings: nothing unknown, nothing changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


def explain(error: ValidationError) -> str:
    """A validation error as one line per field: the field, the value and what is allowed."""
    lines = []
    for problem in error.errors():
        field = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        value = "" if problem["type"] in ("missing", "value_error") else f" (got {problem['input']!r})"
        # A model's own checks begin with the field they are about.
        separator = "." if problem["type"] == "value_error" else ": "
        lines.append(f"{field}{separator}{message}{value}" if field else message)
    return "\n".join(lines)


Probability = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=2)]
SourceKind = Literal["imagefolder", "parquet", "cifar10", "cifar100", "stl10", "tiny_imagenet", "shapes"]

_SPLITS: dict[str, tuple[str, ...]] = {
    "cifar10": ("train", "test"),
    "cifar100": ("train", "test"),
    "stl10": ("unlabeled", "train", "test", "train+unlabeled"),
    "tiny_imagenet": ("train", "val", "test"),
}


def matching_files(pattern: str) -> list[Path]:
    """Files that match a glob, sorted; `**` stands for any number of folders."""
    path = Path(pattern)
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


class SourceSettings(Settings):
    """Where images come from."""

    kind: SourceKind
    """layout of the data set on disk; `shapes` is generated"""
    path: str | None = Field(None, min_length=1)
    """folder (imagefolder, cifar10, cifar100, stl10, tiny_imagenet), or file, folder or glob (parquet)"""
    split: str | None = None
    """part of the data set; default the first of: cifar train, test; stl10 unlabeled, train, test, train+unlabeled;
    tiny_imagenet train, val, test"""
    unlabelled: bool = False
    """take the images without labels (imagefolder: every image below the folder)"""
    image_column: str = "image"
    """parquet: column of the images"""
    label_column: str = "label"
    """parquet: column of the labels"""
    count: int = Field(10_000, ge=10)
    """shapes: number of images"""
    size: int = Field(64, ge=16, le=512)
    """shapes: side in pixels"""
    seed: int = Field(0, ge=0)
    """shapes: another seed gives other images"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind == "shapes":
            if self.path is not None:
                raise ValueError(f"path: shapes are generated and read no path (got {self.path!r}); leave it out")
        elif self.path is None:
            raise ValueError(f"path: the source {self.kind!r} needs the path of its files")
        elif not Path(self.path).exists() and not (self.kind == "parquet" and matching_files(self.path)):
            raise ValueError(f"path: {self.path} does not exist")
        allowed = _SPLITS.get(self.kind, ())
        if self.split is not None and self.split not in allowed:
            choice = f"choose from {', '.join(allowed)}" if allowed else "it has none; name the files by the path"
            raise ValueError(f"split: the source {self.kind!r} has no split {self.split!r}; {choice}")
        if self.unlabelled and self.kind not in ("imagefolder", "parquet"):
            raise ValueError(f"unlabelled: only imagefolder and parquet can drop labels, not {self.kind!r}")
        return self

    @property
    def resolved_split(self) -> str | None:
        """The split, by default the first that the source has."""
        return self.split or next(iter(_SPLITS.get(self.kind, ())), None)


EncodingKind = Literal["raw", "jpeg", "mixed"]

# Kind and greatest side.
_PRESETS: dict[str, tuple[EncodingKind, int]] = {
    "imagenet": ("jpeg", 512),
    "imagenet-fast": ("mixed", 256),
    "small": ("raw", 128),
}


class EncodingSettings(Settings):
    """How images are stored in a beton; what is left out comes from the preset."""

    preset: Literal["imagenet", "imagenet-fast", "small"]
    """imagenet: JPEG, quality 90, at most 512 px; imagenet-fast: half JPEG, half raw, at most 256 px; small: raw
    pixels, at most 128 px"""
    kind: EncodingKind | None = None
    """raw pixels, JPEG, or a share of each"""
    max_resolution: int | None = Field(None, ge=8, le=4096)
    """longer side in pixels; larger images are shrunk"""
    jpeg_quality: int | None = Field(None, ge=1, le=100)
    """1 to 100; default 90"""
    jpeg_fraction: float | None = Field(None, gt=0, lt=1)
    """share of the images that `mixed` stores as JPEG; default 0.5"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        kind = self.resolved_kind
        if kind == "raw" and self.jpeg_quality is not None:
            raise ValueError(f"jpeg_quality: raw pixels have none (got {self.jpeg_quality}); set kind to jpeg or mixed")
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
    """Writing one beton."""

    source: SourceSettings
    encoding: EncodingSettings
    output: Path
    """beton to write, such as data/train.beton; its manifest is written beside it"""
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
        return self


class ColorJitterSettings(Settings):
    """Random brightness, contrast, saturation and hue, in a random order, as torchvision's `ColorJitter`."""

    probability: Probability = 0.8
    """share of the images that are changed"""
    brightness: Strength = 0.4
    """factor from [max(0, 1 - x), 1 + x]"""
    contrast: Strength = 0.4
    """factor from [max(0, 1 - x), 1 + x]"""
    saturation: Strength = 0.4
    """factor from [max(0, 1 - x), 1 + x]"""
    hue: float = Field(0.1, ge=0, le=0.5)
    """turn of the hue circle from [-x, x]"""


class RandAugmentSettings(Settings):
    """RandAugment (Cubuk et al., 2019) with torchvision's fourteen operations and 31 magnitudes."""

    operations: int = Field(2, ge=1, le=14)
    """operations applied to each image, one after the other"""
    magnitude: int = Field(9, ge=0, le=30)
    """strength of each, 0 to 30"""


class AugmentationSettings(Settings):
    """What pre-training does to an image (the paper's tables 4 and 6); the defaults are CMC's."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """least and greatest share of the area that a random resized crop keeps (ImageNet with ResNet: 0.08, 1)"""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """least and greatest width / height of the crop"""
    flip: Probability = 0.5
    """share of the images that are mirrored"""
    rotation: float = Field(0.0, ge=0, le=180)
    """greatest angle in degrees, either way; corners become black"""
    color_jitter: ColorJitterSettings | None = None
    """random colours; off by default"""
    grayscale: Probability = 0.0
    """share of the images that lose their colour"""
    rand_augment: RandAugmentSettings | None = None
    """off by default"""
    mixup: float = Field(1.0, ge=0.5, le=1)
    """least share of the image itself when a neighbour is mixed into it (DACL's alpha); 1 is off"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, (low, high), least, most in (
            ("crop_scale", self.crop_scale, 0.001, 1.0),
            ("crop_ratio", self.crop_ratio, 0.1, 10.0),
        ):
            if not least <= low <= high <= most:
                raise ValueError(f"{name}: got {low}, {high}; expected {least:g} <= least <= greatest <= {most:g}")
        return self
