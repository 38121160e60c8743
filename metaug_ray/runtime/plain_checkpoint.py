"""Files of `torch.distributed.checkpoint`, read without running anything that they name.

Its index, `.metadata`, is a pickle, and so is each value that is no tensor; both would run whatever code stands in
them. Here the index may name the few classes that it consists of, values are numbers, text and lists of them, and parts
lie in the checkpoint's own folder.
"""

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
from metaug_ray.runtime.errors import GO_BACK, CheckpointError, DamagedCheckpointError

_INDEX: Final = ".metadata"
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
        # Where the checkpoint was written; Python 3.13 has it in a module of its own.
        *((module, "PosixPath") for module in ("pathlib", "pathlib._local")),
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
        try:
            return super().read_data(replace(plan, items=ordered), planner)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{self._files}: one of its parts is damaged or names code that loading it would run; nothing was "
                f"run. {_ADVICE}"
            ) from error

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
        """Whether a value, which torch writes as a zip archive, has the checksums that stand in it; torch looks at
        none."""
        try:
            with zipfile.ZipFile(value) as archive:
                changed = archive.testzip() is not None
        except (zipfile.BadZipFile, EOFError, ValueError):
            changed = True
        if changed:
            raise DamagedCheckpointError(
                f"{self._files}: is damaged: {part} holds other bytes than were written. {GO_BACK}"
            )
        value.seek(0)


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
            raise DamagedCheckpointError(f"{self._files}: is damaged: {name} is missing. {GO_BACK}") from error


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
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_type or (module, name) in _NAMES:
            return super().find_class(module, name)
        raise _NamedError(quoted(f"{module}.{name}"))


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
        raise DamagedCheckpointError(f"{files}: is damaged or no checkpoint: it has no {_INDEX}. {GO_BACK}") from error
    try:
        index = _Unpickler(io.BytesIO(content)).load()
    except _NamedError as error:
        raise CheckpointError(
            f"{path}: names code that no checkpoint needs ({error}) and that loading it would run; nothing was "
            f"run. {_ADVICE}"
        ) from error
    except Exception as error:  # what is no pickle may raise nearly anything as it is read
        raise DamagedCheckpointError(f"{files}: is damaged: {_INDEX} cannot be read ({error}). {GO_BACK}") from error
    if not (isinstance(index, Metadata) and isinstance(index.storage_data, dict)):
        raise DamagedCheckpointError(f"{files}: is damaged: {_INDEX} is no index of a checkpoint. {GO_BACK}")
    for part in {str(getattr(place, "relative_path", "")) for place in index.storage_data.values()}:
        if not _PART.fullmatch(part) or not files.has_inside(part):
            raise CheckpointError(
                f"{path}: names {quoted(part)}, which is no part in the checkpoint's folder; nothing was read. "
                f"{_ADVICE}"
            )
    return index
