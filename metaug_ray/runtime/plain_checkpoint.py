"""Files of `torch.distributed.checkpoint`, read without running anything that they name.

Its index, `.metadata`, is a pickle, and so is each value that is no tensor; both would run whatever code stands in
them. Here the index may name the few classes that it consists of, values are numbers, text and lists of them, and parts
lie in the checkpoint's own folder.
"""

import hashlib
import io
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, Final

import torch
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader, _StorageInfo
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata
from torch.distributed.checkpoint.planner import LoadPlan, LoadPlanner, ReadItem
from torch.futures import Future

from metaug_ray.names import quoted
from metaug_ray.runtime.checkpoint_files import CheckpointFiles
from metaug_ray.runtime.errors import CheckpointError, DamagedCheckpointError

_INDEX: Final = ".metadata"
_INDEX_SUM: Final = ".metadata.sha256"
"""Holds the index's checksum, as `sha256sum` prints it. Earlier versions wrote none."""
_LARGE: Final = 64 * 2**20
"""Bytes of a value beyond which it is not held twice in memory as it is read."""
_PART: Final = re.compile(r"__\d+_\d+\.distcp")
_METADATA: Final = "torch.distributed.checkpoint.metadata"
_NAMES: Final = frozenset(
    {
        *(
            (_METADATA, name)
            for name in (
                "Metadata",
                "MetadataIndex",
                "StorageMeta",
                "TensorStorageMetadata",
                "BytesStorageMetadata",
                "ChunkStorageMetadata",
                "TensorProperties",
                "_MEM_FORMAT_ENCODING",
            )
        ),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
        ("torch", "Size"),
        # Where the checkpoint was written.
        ("pathlib", "PosixPath"),
    }
)
"""What an index consists of: modules and names."""


_ADVICE: Final = (
    "Restore it from a backup, or begin anew under another name, and find out who may write there but metaug_ray"
)


class PlainReader(FileSystemReader):
    """Reads what is asked for of a checkpoint's parts, each from its beginning to its end.

    Args:
        files: of the checkpoint.
        index: of it, by :func:`read_index`.
    """

    def __init__(self, files: CheckpointFiles, index: Metadata) -> None:
        super().__init__(files.folder)
        self.fs = _Parts(files)
        self._files = files
        self._index = index

    def read_metadata(self) -> Metadata:
        """The index."""
        return self._index

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Read the parts.

        Raises:
            DamagedCheckpointError: one is missing, or holds other bytes than were written.
            CheckpointError: one holds something else than a plain tensor.
        """
        ordered = sorted(plan.items, key=lambda item: self.storage_data[item.storage_index].offset)
        with _unpacking(self._files):
            return super().read_data(replace(plan, items=ordered), planner)

    def _slice_file(self, file: IO[bytes], sinfo: _StorageInfo) -> IO[bytes]:
        if sinfo.length > _LARGE:
            value = super()._slice_file(file, sinfo)
        else:
            # Torch reads a value's end first, and a store would be asked for each piece of it.
            file.seek(sinfo.offset)
            value = io.BytesIO(file.read(sinfo.length))
        self._check(value, sinfo.relative_path)
        return value

    def _check(self, value: IO[bytes], part: str) -> None:
        if not _has_its_checksums(value):
            raise DamagedCheckpointError(f"{self._files}: is damaged: {part} holds other bytes than were written")
        value.seek(0)


@contextmanager
def _unpacking(files: CheckpointFiles) -> Iterator[None]:
    """Turn what torch may raise over a value into a sentence."""
    try:
        yield
    except RuntimeError as error:
        # What its archives' checksums do not show, torch may find as it unpacks them.
        if "PytorchStreamReader" not in str(error):
            raise
        raise DamagedCheckpointError(f"{files}: is damaged: one of its parts cannot be unpacked") from error
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{files}: one of its parts is damaged or names code that loading it would run; nothing was run. {_ADVICE}"
        ) from error


def _has_its_checksums(value: IO[bytes]) -> bool:
    """Whether a value, which torch writes as a zip archive, has those that stand in it; torch looks at none."""
    try:
        with zipfile.ZipFile(value) as archive:
            return archive.testzip() is None
    # What flipped bits make of flags and methods of compression are the last two.
    except (zipfile.BadZipFile, EOFError, ValueError, RuntimeError, NotImplementedError):
        return False


def damage(files: CheckpointFiles) -> str | None:
    """What is wrong with a checkpoint's files as they are seen here; None where all are whole. Reads all of them, as a
    rank reads its own.

    Raises:
        CheckpointError: its index names what no index needs, or a part holds something else than a plain value.
        OSError: the storage cannot be reached.
    """
    try:
        index = read_index(files)
        reader, parts = PlainReader(files, index), _Parts(files)
        for place in index.storage_data.values():
            with parts.create_stream(place.relative_path, "rb") as file, _unpacking(files):
                torch.load(reader._slice_file(file, place), map_location="cpu", weights_only=True)
    except DamagedCheckpointError as error:
        return error.what
    return None


class _Parts(FileSystem):
    """The file system that torch's reader opens parts on."""

    def __init__(self, files: CheckpointFiles) -> None:
        self._files = files

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        name = Path(path).name
        try:
            with self._files.open(name) as file:
                yield file
        except FileNotFoundError as error:
            raise DamagedCheckpointError(f"{self._files}: is damaged: {name} is missing") from error


class PlainPlanner(DefaultLoadPlanner):
    """Says where values go that were read; those that are no tensors are numbers, text and lists of them."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        """Take a value over that is no tensor.

        Raises:
            pickle.UnpicklingError: it is something else.
        """
        # torch's own loads it with whatever code it names.
        plain = io.BytesIO()
        torch.save(torch.load(value, map_location="cpu", weights_only=True), plain)
        plain.seek(0)
        super().load_bytes(read_item, plain)


class _NamedError(Exception):
    """A name that no index has."""


def _member(of: Any, name: str) -> Any:
    """What Python 3.11.0 to 3.11.3, Debian 12's among them, names as `getattr` to write a member of an enumeration."""
    if of is not _MEM_FORMAT_ENCODING or name not in of.__members__:
        raise _NamedError(quoted(f"builtins.getattr of {getattr(of, '__name__', of)!s}.{name}"))
    return of[name]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return _member
        # Where Python 3.13 has the path of the folder that it was written to.
        module = "pathlib" if module == "pathlib._local" else module
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_type or (module, name) in _NAMES:
            return super().find_class(module, name)
        raise _NamedError(quoted(f"{module}.{name}"))


def write_index_sum(folder: Path) -> None:
    """Write the checksum of the index beside it, which has none in it as the parts do."""
    digest = hashlib.sha256((folder / _INDEX).read_bytes()).hexdigest()
    (folder / _INDEX_SUM).write_text(f"{digest}  {_INDEX}\n", encoding="utf-8")


def _check_index_sum(content: bytes, files: CheckpointFiles) -> None:
    try:
        with files.open(_INDEX_SUM) as file:
            written = file.read()
    except FileNotFoundError:
        return
    if written[:64] != hashlib.sha256(content).hexdigest().encode():
        raise DamagedCheckpointError(f"{files}: is damaged: {_INDEX} holds other bytes than were written")


def read_index(files: CheckpointFiles) -> Metadata:
    """The index of a checkpoint.

    Raises:
        DamagedCheckpointError: it is missing, or is none.
        CheckpointError: it names what no index needs, or a part that does not lie in this folder.
        OSError: the storage cannot be reached.
    """
    path = f"{files}/{_INDEX}"
    try:
        with files.open(_INDEX) as file:
            content = file.read()
    except FileNotFoundError as error:
        raise DamagedCheckpointError(f"{files}: is damaged or no checkpoint: it has no {_INDEX}") from error
    try:
        index = _Unpickler(io.BytesIO(content)).load()
    except _NamedError as error:
        raise CheckpointError(
            f"{path}: is damaged, or names code that no checkpoint needs ({error}) and that loading it would run; "
            f"nothing was run. {_ADVICE}"
        ) from error
    except (ImportError, AttributeError) as error:
        raise CheckpointError(
            f"{path}: cannot be read by this Python and PyTorch {torch.__version__} ({error}); go on with the versions "
            "that wrote it"
        ) from error
    except Exception as error:  # what is no pickle may raise nearly anything as it is read
        raise DamagedCheckpointError(f"{files}: is damaged: {_INDEX} cannot be read ({error})") from error
    if not (isinstance(index, Metadata) and isinstance(index.storage_data, dict)):
        raise DamagedCheckpointError(f"{files}: is damaged: {_INDEX} is no index of a checkpoint")
    for part in {str(getattr(place, "relative_path", "")) for place in index.storage_data.values()}:
        if not _PART.fullmatch(part) or not files.has_inside(part):
            raise CheckpointError(
                f"{path}: names {quoted(part)}, which is no part in the checkpoint's folder; nothing was read. "
                f"{_ADVICE}"
            )
    _check_index_sum(content, files)
    return index
