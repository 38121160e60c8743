"""The storage of runs: written and read by every node, and the same for all of them."""

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow.fs

from metaug_ray.preflight.findings import Failed, Finding, fault, faults, judged
from metaug_ray.preflight.rates import Rates, megabytes_a_second, on_disk, read_all, write_noise

CHECK: Final = "storage"
_TOKEN: Final = "token"
ADVICE: Final = (
    "give --storage a folder that the user of Ray may write on every node, or a URI whose credentials every node has"
)
_SLOW: Final = (
    "checkpoints go there and come from there: look at the network to it, or set --check.least-storage lower and write "
    "checkpoints less often"
)


@dataclass(frozen=True)
class Place:
    """A folder on the storage that one check has for itself.

    Attributes:
        storage: path or URI that it lies in.
        name: of the folder.
        missing: folders above it that have to be made for it, the innermost first.
    """

    storage: str
    name: str
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Written:
    """What one node wrote: the token that it found there, and megabytes a second."""

    token: str
    rate: float


def choose(storage: str) -> Place:
    """A folder on the storage that is not there yet. Nothing is made.

    Raises:
        OSError: the storage cannot be reached.
        ValueError: it is no path or URI of a file system.
    """
    files, root = _opened(storage)
    return Place(storage, f".preflight-{uuid.uuid4().hex[:12]}", _missing(files, root))


def prepare(place: Place) -> str:
    """Make the folder, with a token by which nodes know it; returns the token.

    Raises:
        OSError: it cannot be written.
    """
    files, root = _opened(place.storage)
    token = uuid.uuid4().hex
    files.create_dir(f"{root}/{place.name}")
    with files.open_output_stream(f"{root}/{place.name}/{_TOKEN}") as file:
        file.write(token.encode())
    return token


def write(place: Place, name: str, size: int) -> Written:
    """Look for the token, and write a file.

    Args:
        place: that was prepared.
        name: of the file.
        size: of it, in bytes.

    Raises:
        OSError: the folder is not there, or cannot be written.
    """
    files, root = _opened(place.storage)
    folder = f"{root}/{place.name}"
    try:
        with files.open_input_stream(f"{folder}/{_TOKEN}") as file:
            token = file.read().decode()
    # Where the folder is not there it is not made: it would be another one, on this node's own disk.
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{place.storage} is another folder here than on the driver's node: what that wrote is not there"
        ) from error
    began = time.perf_counter()
    if isinstance(files, pyarrow.fs.LocalFileSystem):
        with Path(folder, name).open("wb", buffering=0) as local:
            write_noise(local, size)
            on_disk(local)
    else:
        with files.open_output_stream(f"{folder}/{name}") as file:
            write_noise(file, size)
    return Written(token, megabytes_a_second(size, began))


def read(place: Place, name: str, size: int) -> float:
    """Read a file that another node wrote; returns megabytes a second.

    Raises:
        OSError: it is not there, or not whole.
    """
    files, root = _opened(place.storage)
    path = f"{root}/{place.name}/{name}"
    found = files.get_file_info(path)
    if found.type != pyarrow.fs.FileType.File or found.size != size:
        seen = "nothing" if found.type == pyarrow.fs.FileType.NotFound else f"{found.size} bytes"
        raise OSError(f"of {size} bytes that another node wrote, {seen} can be seen")
    if isinstance(files, pyarrow.fs.LocalFileSystem):
        with Path(path).open("rb", buffering=0) as local:
            os.posix_fadvise(local.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return read_all(local)
    with files.open_input_stream(path) as file:
        return read_all(file)


def remove(place: Place) -> None:
    """Take the folder away again with all that is in it, and what was made above it.

    Raises:
        OSError: it cannot be removed.
    """
    files, root = _opened(place.storage)
    with suppress(FileNotFoundError):
        files.delete_dir(f"{root}/{place.name}")
    for folder in place.missing:
        # Another program may have put something there, and what was never made need not be removed.
        if files.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True)):
            return
        with suppress(FileNotFoundError):
            files.delete_dir(folder)


def neighbours(names: Sequence[str]) -> dict[str, str]:
    """For each node the one whose file it reads: the next, and for the last one the first."""
    return dict(zip(names, [*names[1:], *names[:1]], strict=True))


def check_storage(
    token: str,
    written: Mapping[str, Written],
    read_rates: Mapping[str, float],
    failed: Mapping[str, Failed],
    storage: str,
    least: float,
) -> list[Finding]:
    """Whether all nodes write and read the same storage fast enough.

    Args:
        token: that the driver's node left there.
        written: what each node wrote.
        read_rates: at what rate each read what another wrote, in MB/s.
        failed: why others did not, by node.
        storage: path or URI.
        least: rate in MB/s.
    """
    findings = faults(CHECK, failed, ADVICE)
    for node, own in written.items():
        if own.token != token:
            findings.append(fault(node, CHECK, f"{storage} holds other files than on the driver's node", ADVICE))
        elif node in read_rates:
            rates = Rates(own.rate, read_rates[node])
            findings.append(judged(node, CHECK, f"{storage}: {rates}", min(rates.write, rates.read), least, _SLOW))
    return findings


def _opened(storage: str) -> tuple[pyarrow.fs.FileSystem, str]:
    files, root = pyarrow.fs.FileSystem.from_uri(storage.rstrip("/") or "/")
    return files, root.rstrip("/")


def _missing(files: pyarrow.fs.FileSystem, root: str) -> tuple[str, ...]:
    if isinstance(files, pyarrow.fs.LocalFileSystem):
        return tuple(str(path) for path in (Path(root), *Path(root).parents) if not path.exists())
    # In an object store a folder is an empty object at most, and those above it are none; a bucket is never made.
    there = files.get_file_info(root).type != pyarrow.fs.FileType.NotFound
    return () if there or "/" not in root else (root,)
