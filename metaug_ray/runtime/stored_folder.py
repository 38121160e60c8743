"""A folder by name on the storage of all runs: made, locked, and read and written as JSON."""

import json
import re
from pathlib import Path
from typing import Any, Final

import pyarrow.fs
from filelock import FileLock, Timeout

from metaug_ray.config.base import NAME_RULE, RUN_NAME
from metaug_ray.data.writable import make_writable
from metaug_ray.names import quoted
from metaug_ray.runtime.errors import StorageError

_LOCK: Final = ".lock"


def resolved(storage: str) -> str:
    """A storage as a URI, or as a path from the root on."""
    return storage.rstrip("/") if "://" in storage else str(Path(storage).expanduser().absolute())


class StoredFolder:
    """A folder on a local path or an object store, of which one driver at a time may write.

    Args:
        storage: folder or URI that it lies in.
        name: of the folder.
        what: it is of, in messages: run, sweep.

    Raises:
        StorageError: the storage cannot be reached, or the name is none of a folder in it: names come from records
            and registries too.
    """

    def __init__(self, storage: str, name: str, what: str) -> None:
        if not re.fullmatch(RUN_NAME, name):
            raise StorageError(f"name: {quoted(name)} is no name of a {what} in {storage}; expected {NAME_RULE}")
        self.what = what
        self.local = "://" not in storage
        self.storage = resolved(storage)
        self.name = name
        self.location = f"{self.storage}/{name}"
        try:
            self._files, root = pyarrow.fs.FileSystem.from_uri(self.storage)
        except (OSError, ValueError) as error:
            raise StorageError(
                f"storage: {storage} cannot be opened ({error}); give a folder, or a URI such as s3://bucket"
            ) from error
        self._root = f"{root.rstrip('/')}/{name}"

    def make(self) -> None:
        """Make the folder, and try to write in it.

        Raises:
            StorageError: it cannot be written.
        """
        try:
            if self.local:
                make_writable(Path(self._root))
            else:
                self._files.create_dir(self._root)
                with self._files.open_output_stream(f"{self._root}/.writable"):
                    pass
        except OSError as error:
            raise StorageError(
                f"storage: {self.location} cannot be written ({error}); choose another folder, or change "
                "its permissions"
            ) from error

    def lock(self) -> FileLock | None:
        """Keep other drivers of this machine away for as long as the lock is held. None: an object store
        knows no locks.

        Raises:
            StorageError: another driver is at it.
        """
        if not self.local:
            return None
        lock = FileLock(f"{self._root}/{_LOCK}")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise StorageError(
                f"name: {self.what} {self.name!r} is already running from {self.location}; wait for it, stop it, or "
                "give another name"
            ) from error
        return lock

    def remove_if_unused(self) -> None:
        """Take the folder away again where nothing but its lock came into it: what was refused leaves nothing.
        Called under the lock."""
        if self.local and {path.name for path in Path(self._root).iterdir()} <= {_LOCK}:
            Path(self._root, _LOCK).unlink(missing_ok=True)
            Path(self._root).rmdir()

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Replace a file: whoever reads it finds the old or the new one, whole.

        Raises:
            StorageError: it cannot be written.
        """
        text = json.dumps(content, indent=2) + "\n"
        try:
            if self.local:
                path = Path(self._root, name)
                partial = path.with_suffix(".partial")
                try:
                    partial.write_text(text, encoding="utf-8")
                    partial.replace(path)
                finally:
                    partial.unlink(missing_ok=True)
            else:
                with self._files.open_output_stream(f"{self._root}/{name}") as file:
                    file.write(text.encode())
        except OSError as error:
            raise StorageError(
                f"storage: {self.location}/{name} cannot be written ({error}); make room, or look at its permissions"
            ) from error

    def read_json(self, name: str) -> dict[str, Any] | None:
        """What a file holds; None where it is not there.

        Raises:
            StorageError: it cannot be read, or is damaged.
        """
        path = f"{self._root}/{name}"
        try:
            with self._files.open_input_stream(path) as file:
                text = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{self.location}/{name}: cannot be read ({error})") from error
        try:
            content: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise StorageError(
                f"{self.location}/{name}: is damaged ({error}); restore it from a backup, or begin anew under another "
                "name"
            ) from error
        return content
