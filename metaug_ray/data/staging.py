"""Betons brought to a node's own disk once, whole and checked."""

import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.fs
from filelock import FileLock, Timeout
from tqdm import tqdm

from metaug_ray.data.checksum import sha256_of_stream
from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import (
    Manifest,
    check_own_manifest,
    check_sha256,
    check_size,
    manifest_path,
    parse_manifest,
    read_manifest,
)
from metaug_ray.data.progress import progress_options, readable_size
from metaug_ray.data.writable import make_writable

_log = logging.getLogger(__name__)
_LONGEST_STEM = 200  # bytes


Needed = Callable[[Sequence[int]], Iterable[int]]
"""Numbers of the shards that are read, given how many images each has."""


def stage(beton: str | Path, directory: Path, needed: Needed | None = None) -> Path:
    """A local copy of a beton and its manifest, checked against the manifest's checksum.

    Every worker of a node calls this: the first one copies while the others wait for its lock, and later runs find the
    copy and use it again. A copy gets the time at which its beton was made; one that was touched since is checked
    again, and replaced if it is no longer whole. Copies are named by checksum, so another version of a beton is
    another copy.

    Of a data set of many shards those that are needed are copied, each as a beton, into a folder for the whole.

    Args:
        beton: path, or URI of an object store, for which pyarrow.fs (file, s3, gs, abfs, hdfs) or else fsspec is used.
        directory: folder on the node's own disk; made if it is not there.
        needed: says which shards; None: all.

    Returns:
        The path of the copy.

    Raises:
        DataError: a beton or manifest that is missing, unreachable, truncated or changed, or a disk that is full or not
            writable. No part of a file is left behind.
    """
    beton, directory = str(beton), Path(directory)
    manifest = fetch_manifest(beton)
    target = copy_of(beton, manifest, directory)
    try:
        make_writable(directory)
        if not manifest.shards:
            _bring(beton, target, manifest)
            return target
        target.mkdir(exist_ok=True)
        shards = manifest.shard_samples
        for number in range(len(shards)) if needed is None else needed(shards):
            shard = manifest.shards[number]
            source = within(beton, shard.name)
            own = fetch_manifest(source)
            check_own_manifest(own, shard, str(source))
            _bring(source, target / shard.name, own)
        _write_manifest(manifest, target)
    # fsspec raises ValueError and OSError for what happens on the way.
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"{directory}: the disk became full while {beton} was copied to it; free some space"
            ) from error
        raise DataError(f"{directory}: {beton} cannot be staged here ({error})") from error
    return target


def _bring(beton: str, target: Path, manifest: Manifest) -> None:
    with _locked(target):
        if not _is_whole(target, manifest):
            _copy(beton, target, manifest)


def _write_manifest(manifest: Manifest, target: Path) -> None:
    """Write it whole: another worker may read it meanwhile."""
    path = manifest_path(target)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def within(folder: str, name: str) -> str:
    """The path or URI of a file in a folder; a URI may end in options, such as ?endpoint_override=..."""
    location, question, options = _parts(folder)
    return f"{location}/{name}{question}{options}"


def _parts(place: str) -> tuple[str, str, str]:
    location, question, options = place.partition("?") if "://" in place else (place, "", "")
    return location.rstrip("/"), question, options


def copy_of(beton: str, manifest: Manifest, directory: Path) -> Path:
    """Where the copy of a beton lies in a directory for copies, once it is made."""
    location, *_ = _parts(beton)
    # A copy's lock and manifest have longer names than the beton, which no disk may refuse.
    stem = os.fsencode(Path(location).stem)[:_LONGEST_STEM].decode(errors="ignore")
    return directory / f"{stem}-{manifest.sha256[:16]}.beton"


def staged(beton: str, directory: Path | None, needed: Needed | None = None) -> Path:
    """A beton as this node reads it: staged into a directory, or, without one, where it lies.

    Raises:
        DataError: as :func:`stage`.
    """
    return Path(beton) if directory is None else stage(beton, directory, needed)


def find_manifest(beton: str) -> Manifest:
    """The manifest of a beton, given by its path or URI.

    Raises:
        DataError: it is missing or broken.
    """
    return fetch_manifest(beton) if "://" in beton else read_manifest(Path(beton))


def fetch_manifest(beton: str) -> Manifest:
    """The manifest of a beton that may lie elsewhere.

    Args:
        beton: path, or URI as for `stage`.

    Raises:
        DataError: it is missing or unreachable, or is no manifest.
    """
    location, question, options = _parts(beton)
    beside = f"{location}.json{question}{options}"
    return parse_manifest(_read(beside, beton), beside)


def verify_in_place(beton: Path) -> Manifest:
    """The manifest of a local beton that is used where it lies, after reading all of it.

    Raises:
        DataError: a beton or manifest that is missing, truncated or changed.
    """
    manifest = read_manifest(beton)
    for shard in manifest.shards:
        check_sha256(verify_in_place(beton / shard.name).sha256, shard, str(beton / shard.name))
    if manifest.shards:
        return manifest
    with beton.open("rb") as file:
        check_sha256(_checksum(file, manifest, "verifying"), manifest, str(beton))
    return manifest


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.warning("waiting for another process that stages %s", target)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _is_whole(target: Path, manifest: Manifest) -> bool:
    if not (target.exists() and manifest_path(target).exists()):
        return False
    status = target.stat()
    if status.st_size == manifest.bytes and status.st_mtime == _made(manifest):
        return True
    try:
        verify_in_place(target)
    except DataError as error:
        _log.warning("%s\ncopying it again", error)
        return False
    os.utime(target, (_made(manifest), _made(manifest)))
    return True


def _copy(beton: str, target: Path, manifest: Manifest) -> None:
    partial = target.with_name(f".{target.name}.partial")
    partial.unlink(missing_ok=True)
    free = shutil.disk_usage(target.parent).free
    if manifest.bytes > free:
        raise DataError(
            f"{target.parent}: {beton} takes {readable_size(manifest.bytes)} and {readable_size(free)} are free; "
            "free some space or stage to another disk"
        )
    try:
        with open_binary(beton) as source, partial.open("wb") as copy:
            sha256 = _checksum(source, manifest, "staging", copy)
            copy.flush()
            os.fsync(copy.fileno())
        check_size(partial.stat().st_size, manifest, beton)
        check_sha256(sha256, manifest, beton)
        os.utime(partial, (_made(manifest), _made(manifest)))
        _write_manifest(manifest, target)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _checksum(source: BinaryIO, manifest: Manifest, what: str, copy: BinaryIO | None = None) -> str:
    with tqdm(desc=what, total=manifest.bytes, **progress_options("B")) as bar:
        return sha256_of_stream(source, bar.update, copy)


def _made(manifest: Manifest) -> float:
    return manifest.created.timestamp()


def _read(uri: str, beton: str) -> str:
    try:
        with open_binary(uri) as file:
            return file.read().decode("utf-8")
    except DataError as error:
        raise DataError(
            f"{error}; a beton needs its manifest beside it, so copy both, or prepare the data again"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{uri}: is not the manifest of {beton}; prepare the data again") from error


def open_binary(uri: str) -> BinaryIO:
    """Opens a path or URI for reading.

    Raises:
        DataError: it does not exist, or cannot be reached.
    """
    try:
        if "://" not in uri:
            return Path(uri).open("rb")
        stream: BinaryIO
        try:
            system, path = pyarrow.fs.FileSystem.from_uri(uri)
        except pa.ArrowInvalid:
            remote, path = fsspec.url_to_fs(uri)
            # Some web servers know no ranges; block size 0 reads the file as it comes.
            stream = remote.open(path, "rb", **({"block_size": 0} if uri.startswith("http") else {}))
        else:
            stream = system.open_input_stream(path)
    except (OSError, ValueError, ImportError) as error:
        raise DataError(
            f"{uri}: cannot be opened ({error}); check the path, the network and the credentials"
        ) from error
    return stream
