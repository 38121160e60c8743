"""The manifest beside a beton: what is in it, how it was made, and the checksum that says it is whole.

A data set of many shards is a folder of betons, and has a manifest beside it that lists them; all that holds for the
path of a beton holds for that of the folder.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from metaug_ray.data.errors import DataError
from metaug_ray.names import readable

# Files may be called by bytes that are no Unicode, which JSON cannot hold.
_Name = Annotated[str, BeforeValidator(lambda name: readable(name) if isinstance(name, str) else name)]


class Skipped(BaseModel):
    """An image of the source that could not be read and is not in the beton."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Name
    reason: str


class PassedOver(BaseModel):
    """Files and folders that lie in the source and are no images of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reason: str
    count: int = Field(ge=1)
    names: list[_Name] = Field(description="the first ten")


class Shard(BaseModel):
    """A beton of a data set that has many."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^\d{5,}\.beton$", description="of its file in the data set's folder")
    samples: int = Field(ge=1)
    bytes: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """All that is known of a beton, or of a data set of many.

    The beton holds it to be true: `samples`, `bytes` and `sha256` are checked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    source: dict[str, _Name] = Field(description="kind, path and options of the source")
    samples: int = Field(ge=1)
    classes: list[str] = Field(description="class names by label; empty: unlabelled")
    class_counts: list[int] = Field(description="images by label")
    encoding: dict[str, str | int | float]
    height: tuple[int, int] = Field(description="least and greatest height of the stored images, in pixels")
    width: tuple[int, int] = Field(description="least and greatest width, in pixels")
    bytes: int = Field(ge=1, description="size of the beton")
    sha256: str = Field(
        pattern="^[0-9a-f]{64}$",
        description="of the beton, as `sha256sum` prints it; of shards, of their checksums, a line each",
    )
    grey: int | None = Field(None, description="images whose pixels are all grey; None: not counted")
    one_colour: int | None = Field(None, description="images whose pixels are all the same; None: not counted")
    dark: int | None = Field(None, description="other images with no level above 63 of 255; None: not counted")
    skipped: list[Skipped] = []
    passed_over: list[PassedOver] = []
    created: AwareDatetime
    versions: dict[str, str] = Field(description="of the tools that wrote it")
    shards: list[Shard] = Field(
        [], exclude_if=lambda shards: not shards, description="betons that the images were dealt to; none: it is one"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.shards:
            return self
        counts = [shard.samples for shard in self.shards]
        if (sum(counts), sum(shard.bytes for shard in self.shards)) != (self.samples, self.bytes):
            raise ValueError("the shards' samples and bytes do not add up to those of the whole")
        if max(counts) > min(counts) + 1:
            raise ValueError(f"the shards hold {min(counts)} to {max(counts)} images, expected as many in each")
        if self.sha256 != sha256_of_shards(self.shards):
            raise ValueError("sha256 is not that of the shards' checksums")
        return self

    @property
    def shard_samples(self) -> tuple[int, ...]:
        """Images of each shard; a single beton is one."""
        return tuple(shard.samples for shard in self.shards) or (self.samples,)

    @property
    def labelled(self) -> int:
        """Images that have labels."""
        return sum(self.class_counts)


def sha256_of_shards(shards: Sequence[Shard]) -> str:
    """What stands for the content of a data set of many betons."""
    return hashlib.sha256("".join(f"{shard.sha256}\n" for shard in shards).encode()).hexdigest()


def manifest_path(beton: Path) -> Path:
    """Where a beton's manifest lies: `<beton>.json`, beside it."""
    return beton.with_name(beton.name + ".json")


def parse_manifest(text: str, where: str) -> Manifest:
    """A manifest from its JSON.

    Raises:
        DataError: not JSON, or not a manifest.
    """
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(
            f"{where}: is not a beton's manifest ({field}: {first['msg']}); prepare the data again"
        ) from error


def read_manifest(beton: Path) -> Manifest:
    """The manifest of a local beton, its size checked against it, or of a folder of shards, which are not looked at.

    Raises:
        DataError: no beton, no manifest (a writer was interrupted, or another tool wrote the beton), a broken
            manifest, or a beton of another size.
    """
    if not beton.exists():
        raise DataError(f"{beton}: no such beton; make it with jobs/prepare_data.py")
    path = manifest_path(beton)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise DataError(
            f"{beton}: has no manifest {path.name} beside it, so it may be unfinished; prepare the data again, or "
            "copy the manifest along with the beton"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    manifest = parse_manifest(text, str(path))
    if bool(manifest.shards) != beton.is_dir():
        is_one, says = ("a folder", "one beton") if beton.is_dir() else ("one beton", "a folder of shards")
        raise DataError(f"{beton}: is {is_one} where its manifest says {says}; copy both again")
    if manifest.shards:
        return manifest
    check_size(beton.stat().st_size, manifest, str(beton))
    return manifest


def check_size(size: int, manifest: Manifest | Shard, where: str) -> None:
    """Raises `DataError` unless `size`, in bytes, is the manifest's, or what it says of a shard."""
    if size != manifest.bytes:
        raise DataError(
            f"{where}: has {size:,} bytes where its manifest says {manifest.bytes:,}; it is truncated, or the manifest "
            "belongs to another beton: copy both again, or prepare the data again"
        )


def check_shard(path: Path, shard: Shard) -> None:
    """Raises `DataError` unless a shard lies where it should, in its size, and its own manifest tells of it."""
    if not path.is_file():
        raise DataError(f"{path}: this shard is missing; copy it, or prepare the data again")
    check_size(path.stat().st_size, shard, str(path))
    if manifest_path(path).is_file():
        check_own_manifest(read_manifest(path), shard, str(path))


def check_own_manifest(own: Manifest, shard: Shard, where: str) -> None:
    """Raises `DataError` unless a shard's manifest tells of the beton that the data set's does."""
    if own.sha256 != shard.sha256:
        raise DataError(
            f"{where}: its manifest tells of a beton of SHA-256 {own.sha256[:12]}..., and that of the data set of "
            f"{shard.sha256[:12]}...; shards were exchanged, or are of another data set: copy all of it again, or "
            "prepare the data again"
        )


def check_sha256(sha256: str, manifest: Manifest | Shard, where: str) -> None:
    """Raises `DataError` unless the checksum is the manifest's, or what it says of a shard."""
    if sha256 != manifest.sha256:
        raise DataError(
            f"{where}: its SHA-256 is {sha256[:12]}... where its manifest says {manifest.sha256[:12]}...; its "
            "bytes were changed, or the manifest belongs to another beton: copy both again, or prepare the data again"
        )
