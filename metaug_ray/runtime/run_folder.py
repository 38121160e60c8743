"""The folder of one run on the storage of all runs: its record and its checkpoints."""

import json
import tempfile
from pathlib import Path
from typing import Any, Final

import pyarrow.fs
from filelock import FileLock, Timeout

from metaug_ray.data.errors import DataError
from metaug_ray.data.writable import make_writable
from metaug_ray.runtime.errors import StorageError

_SNAPSHOT: Final = "checkpoint_manager_snapshot.json"
_RECORD: Final = "run.json"
_BEST: Final = "best"
_STARTS: Final = "starts.json"
_LOCK: Final = ".lock"
_PREFIX: Final = "checkpoint_"


def checkpoint_name(step: int) -> str:
    """Folder of the checkpoint after `step` steps: the same on each restart, so that a replay overwrites its own."""
    return f"{_PREFIX}{step:09d}"


class RunFolder:
    """What one run keeps, by name, on a local path or an object store.

    Ray copies the files of a checkpoint here from all workers, and lists it once it is whole: what is not listed does
    not count, and :meth:`remove_unfinished` takes it away.

    Args:
        storage: folder or URI of all runs.
        name: of the run.

    Raises:
        StorageError: the storage cannot be reached.
    """

    def __init__(self, storage: str, name: str) -> None:
        self.local = "://" not in storage
        self.storage = str(Path(storage).expanduser().absolute()) if self.local else storage.rstrip("/")
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
        """Keep other drivers of this machine away from the run for as long as the lock is held. None: an object store
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
                f"name: run {self.name!r} is already running from {self.location}; wait for it, stop it, or give "
                "another name"
            ) from error
        return lock

    def remove_if_unused(self) -> None:
        """Take the folder away again where nothing but its lock came into it: a run that was refused leaves nothing.
        Called under the lock."""
        if self.local and {path.name for path in Path(self._root).iterdir()} <= {_LOCK}:
            Path(self._root, _LOCK).unlink(missing_ok=True)
            Path(self._root).rmdir()

    @property
    def record(self) -> dict[str, Any] | None:
        """What was kept of the run: settings, data, results. None for a new run."""
        return self._json(_RECORD)

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace the record."""
        self._write(_RECORD, record)

    def checkpoints(self) -> list[str]:
        """Names of the whole checkpoints, oldest first."""
        snapshot = self._json(_SNAPSHOT) or {}
        return sorted(result["checkpoint_dir_name"] for result in snapshot.get("checkpoint_results", []))

    def metrics(self, name: str) -> dict[str, Any]:
        """What was measured for a whole checkpoint."""
        snapshot = self._json(_SNAPSHOT) or {}
        for result in snapshot.get("checkpoint_results", []):
            if result["checkpoint_dir_name"] == name:
                return dict(result.get("metrics", {}))
        return {}

    def best(self) -> dict[str, Any] | None:
        """Name, step and kNN accuracy of the best checkpoint, which lies in `best/<name>`; None before there is one."""
        return self._json(f"{_BEST}/best.json")

    def keep_best(self, name: str, accuracy: float, step: int) -> None:
        """Copy a checkpoint aside if it is the best so far. The pointer to it is written when the copy is whole."""
        best = self.best()
        if best is not None and best["accuracy"] >= accuracy:
            return
        target = f"{self._root}/{_BEST}/{name}"
        self._files.create_dir(target)
        pyarrow.fs.copy_files(
            f"{self._root}/{name}", target, source_filesystem=self._files, destination_filesystem=self._files
        )
        self._write(f"{_BEST}/best.json", {"name": name, "accuracy": accuracy, "step": step})
        if best is not None and best["name"] != name:
            self._files.delete_dir(f"{self._root}/{_BEST}/{best['name']}")

    def keep_best_of_all(self) -> None:
        """Do so for all checkpoints that are there: a driver may have died before it could."""
        snapshot = self._json(_SNAPSHOT) or {}
        for result in snapshot.get("checkpoint_results", []):
            metrics = result.get("metrics", {})
            if "knn/accuracy" in metrics:
                self.keep_best(result["checkpoint_dir_name"], metrics["knn/accuracy"], metrics["step"])

    def count_start(self, checkpoint: str | None) -> int:
        """Count a start of the workers from a checkpoint; returns how many there were from this one in a row. None
        begins to count anew."""
        before = self._json(_STARTS) or {}
        starts = 0 if checkpoint is None else before.get("starts", 0) + 1 if before.get("from") == checkpoint else 1
        self._write(_STARTS, {"from": checkpoint, "starts": starts})
        return starts

    def remove_unfinished(self) -> list[str]:
        """Remove what an interrupted writer left of checkpoints; returns their names."""
        whole = set(self.checkpoints())
        selector = pyarrow.fs.FileSelector(self._root, allow_not_found=True)
        names = [info.base_name for info in self._files.get_file_info(selector)]
        left = sorted(name for name in names if name.startswith(_PREFIX) and name not in whole)
        left = [name for name in left if not name.endswith(".json")]
        for name in left:
            self._files.delete_dir(f"{self._root}/{name}")
        return left

    def download(self, name: str, into: Path | None = None) -> Path:
        """A local folder with the files of a checkpoint: where it lies, or a copy.

        Raises:
            DataError: it cannot be copied.
        """
        source = f"{self._root}/{name}"
        if self.local:
            return Path(source)
        target = into or Path(tempfile.mkdtemp(prefix="metaug-"))
        try:
            pyarrow.fs.copy_files(source, str(target), source_filesystem=self._files)
        except OSError as error:
            raise DataError(f"{self.location}/{name}: cannot be copied to {target} ({error})") from error
        return target

    def _write(self, name: str, content: dict[str, Any]) -> None:
        text = json.dumps(content, indent=2) + "\n"
        if self.local:
            path = Path(self._root, name)
            partial = path.with_suffix(".partial")
            partial.write_text(text, encoding="utf-8")
            partial.replace(path)
        else:
            with self._files.open_output_stream(f"{self._root}/{name}") as file:
                file.write(text.encode())

    def _json(self, name: str) -> dict[str, Any] | None:
        path = f"{self._root}/{name}"
        try:
            with self._files.open_input_stream(path) as file:
                text = file.read().decode()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{self.location}/{name}: cannot be read ({error})") from error
        try:
            content: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise StorageError(
                f"{self.location}/{name}: is damaged ({error}); restore it from a backup, or start a new run with "
                f"--fork from another one"
            ) from error
        return content
