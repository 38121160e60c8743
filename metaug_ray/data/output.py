"""What a beton's place must allow before the first image is read: all that would else fail once it is written."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from metaug_ray.data.beton import check_decoding, decoding_error
from metaug_ray.data.encoding import EncodedImage
from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import Manifest, manifest_path, read_manifest
from metaug_ray.data.progress import readable_size
from metaug_ray.data.writable import make_writable


class Output:
    """The names that a beton, or a folder of shards, and its manifest have while they are written.

    Args:
        path: of the finished beton or folder.
        shards: number of betons in the folder; 1: it is one beton.
    """

    def __init__(self, path: Path, shards: int = 1) -> None:
        self.path = path
        self.partial = path.with_name(f".{path.name}.partial")
        self._replaced = path.with_name(f".{path.name}.old")
        self._shards = shards
        self._text = path.with_name(f".{path.name}.partial.json")

    @contextmanager
    def reserved(self, overwrite: bool) -> Iterator[None]:
        """Keeps other writers away, and leaves nothing that is not finished.

        Raises:
            DataError: the beton exists, is being written, or cannot be written here.
        """
        path = self.path
        try:
            make_writable(path.parent)
            with FileLock(path.with_name(f".{path.name}.lock"), timeout=0):
                try:
                    self._check(overwrite)
                    self._remove_unfinished()
                    if self._shards > 1:
                        self.partial.mkdir()
                    yield
                finally:
                    self._remove_unfinished()
        except Timeout as error:
            raise DataError(
                f"{path}: another process is writing it; wait for it, or choose another --output"
            ) from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise DataError(f"{path}: the disk is full; free some space or choose another --output") from error
            if error.filename is None or _belongs(Path(os.fsdecode(error.filename)), path.parent):
                raise DataError(f"{path}: cannot be written ({error.strerror}); choose another --output") from error
            raise DataError(f"{error.filename}: {error.strerror}; check the path and its permissions") from error

    def publish(self, manifest: Manifest) -> None:
        """Gives beton and manifest their names; readers refuse a beton without its manifest or with an older one."""
        with self._text.open("w", encoding="utf-8") as file:
            file.write(manifest.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        # No folder takes the place of another one, nor of a file.
        if self.path.exists() and (self.path.is_dir() or self.partial.is_dir()):
            self.path.rename(self._replaced)
        self.partial.replace(self.path)
        self._text.replace(manifest_path(self.path))
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _remove_unfinished(self) -> None:
        if self._replaced.exists() and not self.path.exists():
            self._replaced.rename(self.path)
        for path in (self.partial, self._replaced):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self._text.unlink(missing_ok=True)

    def _check(self, overwrite: bool) -> None:
        # One of shards is replaced as a beton is.
        if self.path.is_dir() and not _is_of_shards(self.path):
            raise DataError(f"{self.path}: is a folder; choose another --output")
        manifest = manifest_path(self.path)
        if manifest.is_dir():
            raise DataError(f"{manifest}: is a folder; choose another --output")
        if self.path.exists() and not overwrite:
            raise DataError(f"{self.path}: exists already; pass --overwrite to replace it, or choose another --output")
        # The longest of the names; one that the disk does not take fails here and not at the end.
        self._text.touch()
        self._text.unlink()


def _is_of_shards(folder: Path) -> bool:
    with suppress(DataError):
        return bool(read_manifest(folder).shards)
    return False


def _belongs(path: Path, folder: Path) -> bool:
    """Whether a path is a file in the folder, or lies on the way to it."""
    return path.parent == folder or folder.is_relative_to(path)


def check_first(folder: Path, first: Sequence[EncodedImage], count: int) -> None:
    """Whether `count` images like the first ones fit on the disk, and survive FFCV's decoding.

    Raises:
        DataError: they do not.
    """
    needed = int(np.mean([len(image.data) for image in first]) * count) if first else 0
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{folder}: the beton will take about {readable_size(needed)} and {readable_size(free)} are free; "
            "free some space, choose another --output, or store smaller images (--encoding.max-resolution)"
        )
    check_decoding(
        [
            decoding_error(np.frombuffer(bytearray(image.data), np.uint8), image.height, image.width, image.name)
            for image in first
            if image.is_jpeg
        ]
    )
