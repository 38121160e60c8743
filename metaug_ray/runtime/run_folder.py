"""The folder of one run on the storage of all runs: its record and its checkpoints."""

import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, count
from typing import Any, Final

import pyarrow.fs

from metaug_ray.config.pretrain import KNN_ACCURACY
from metaug_ray.names import quoted
from metaug_ray.runtime.checkpoint_files import CheckpointFiles
from metaug_ray.runtime.errors import StorageError
from metaug_ray.runtime.stored_folder import StoredFolder

_SNAPSHOT: Final = "checkpoint_manager_snapshot.json"
_RECORD: Final = "run.json"
SWEEP: Final = "sweep.json"
"""Record of a sweep, whose folder is no run's."""
_BEST: Final = "best"
_STARTS: Final = "starts.json"
_PREFIX: Final = "checkpoint_"
_CHECKPOINT: Final = rf"{_PREFIX}\d+"
_DAMAGED: Final = "damaged_"


def checkpoint_name(step: int) -> str:
    """Folder of the checkpoint after `step` steps: the same on each restart, so that a replay overwrites its own."""
    return f"{_PREFIX}{step:09d}"


@dataclass(frozen=True)
class Best:
    """The best checkpoint of a run, which lies in `best/<name>`.

    Attributes:
        name: of the checkpoint.
        step: at which it was written.
        metric: that it is the best by.
        metrics: what was measured for it.
    """

    name: str
    step: int
    metric: str
    metrics: Mapping[str, float]

    @property
    def value(self) -> float:
        """Of the metric."""
        return self.metrics[self.metric]


class RunFolder(StoredFolder):
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
        super().__init__(storage, name, "run")

    @property
    def record(self) -> dict[str, Any] | None:
        """What was kept of the run: settings, data, results. None for a new run."""
        return self.read_json(_RECORD)

    def write_record(self, record: dict[str, Any]) -> None:
        """Replace the record."""
        self.write_json(_RECORD, record)

    def checkpoints(self) -> list[str]:
        """Names of the whole checkpoints, oldest first; not of those that somebody took away."""
        return sorted(self._names() & self._folders())

    def missing(self) -> list[str]:
        """Names of those on Ray's list that somebody took away, oldest first."""
        return sorted(self._names() - self._folders())

    def forget(self, names: Collection[str]) -> None:
        """Take checkpoints off Ray's list, which goes on from no other than the last one on it, and from none where
        one is missing."""
        snapshot = self.read_json(_SNAPSHOT) or {}
        kept = [
            (result, index)
            for result, index in zip(snapshot["checkpoint_results"], snapshot["checkpoint_report_indices"], strict=True)
            if result["checkpoint_dir_name"] not in names
        ]
        results = [result for result, _ in kept]
        last = max(results, key=lambda result: str(result["checkpoint_dir_name"]), default=None)
        snapshot |= {
            "checkpoint_results": results,
            "checkpoint_report_indices": [index for _, index in kept],
            "latest_checkpoint_result": last,
        }
        self.write_json(_SNAPSHOT, snapshot)

    def set_aside(self, name: str) -> str:
        """Let a damaged checkpoint no longer count, neither as the best; returns the name that its folder has from now
        on."""
        there = {info.base_name for info in self._files.get_file_info(pyarrow.fs.FileSelector(self._root))}
        names = chain([f"{_DAMAGED}{name}"], (f"{_DAMAGED}{name}_{number}" for number in count(2)))
        aside = next(each for each in names if each not in there)
        source, target = f"{self._root}/{name}", f"{self._root}/{aside}"
        if isinstance(self._files, pyarrow.fs.LocalFileSystem):
            self._files.move(source, target)
        else:
            self._copy(source, target)
            self._files.delete_dir(source)
        self.forget([name])
        best = self.best()
        if best is not None and best.name == name:
            # On a disk its files are the same.
            self._files.delete_file(f"{self._root}/{_BEST}/best.json")
            with suppress(FileNotFoundError):
                self._files.delete_dir(f"{self._root}/{_BEST}/{name}")
        return aside

    def metrics(self, name: str) -> dict[str, Any]:
        """What was measured for a whole checkpoint, or for the best one."""
        best = self.best()
        metrics: dict[str, Any] = dict(best.metrics) if best is not None and best.name == name else {}
        for result in self._listed():
            if result["checkpoint_dir_name"] == name:
                metrics |= result.get("metrics", {})
        return metrics

    def best(self) -> Best | None:
        """The best checkpoint; None before there is one."""
        best = self.read_json(f"{_BEST}/best.json")
        if best is None:
            return None
        self._check_inside(best["name"], f"{_BEST}/best.json")
        # 0.2.0 and earlier knew no other metric.
        metrics = best.get("metrics") or {KNN_ACCURACY: best["accuracy"]}
        return Best(best["name"], best["step"], best.get("metric", KNN_ACCURACY), metrics)

    def keep_best(self, name: str, step: int, metrics: Mapping[str, float], by: str) -> None:
        """Keep a checkpoint if it is the best so far, when Ray removes it too. The pointer to it is written when all of
        it is kept.

        On a disk its files get a second name, which costs no room and no time; a store copies them by itself. Only
        where a disk knows no hard links does this process copy them.

        Args:
            name: of the checkpoint.
            step: at which it was written.
            metrics: what was measured for it.
            by: the metric that is compared. Where it was not measured, or is not finite, nothing is kept; a best one
                by another metric is replaced, as the two cannot be compared.
        """
        if not self._is_better(metrics, by):
            return
        best = self.best()
        source, target = f"{self._root}/{name}", f"{self._root}/{_BEST}/{name}"
        if isinstance(self._files, pyarrow.fs.LocalFileSystem):
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target, copy_function=_link)
        else:
            self._copy(source, target)
        self.write_json(f"{_BEST}/best.json", {"name": name, "step": step, "metric": by, "metrics": dict(metrics)})
        if best is not None and best.name != name:
            with suppress(FileNotFoundError):  # somebody took it away
                self._files.delete_dir(f"{self._root}/{_BEST}/{best.name}")

    def keep_best_of_all(self, by: str, whole: Callable[[CheckpointFiles], bool]) -> None:
        """Do so for all checkpoints that are there: a driver may have died before it could.

        Args:
            by: the metric.
            whole: whether a checkpoint is; asked of those alone that would be kept.
        """
        there = self._folders()
        for result in self._listed():
            name, metrics = result["checkpoint_dir_name"], result.get("metrics", {})
            if name in there and "step" in metrics and self._is_better(metrics, by) and whole(self.files(name)):
                self.keep_best(name, metrics["step"], metrics, by)

    def _is_better(self, metrics: Mapping[str, float], by: str) -> bool:
        best, value = self.best(), metrics.get(by, math.nan)
        return math.isfinite(value) and not (best is not None and best.metric == by and best.value >= value)

    def count_start(self, checkpoint: str | None) -> int:
        """Count a start of the workers from a checkpoint; returns how many there were from this one in a row. None
        begins to count anew."""
        before = self.read_json(_STARTS) or {}
        starts = 0 if checkpoint is None else before.get("starts", 0) + 1 if before.get("from") == checkpoint else 1
        self.write_json(_STARTS, {"from": checkpoint, "starts": starts})
        return starts

    def remove_unfinished(self) -> list[str]:
        """Remove what an interrupted writer left of checkpoints; returns their names."""
        left = sorted(self._folders() - self._names())
        for name in left:
            self._files.delete_dir(f"{self._root}/{name}")
        return left

    def files(self, name: str) -> CheckpointFiles:
        """The files of a checkpoint."""
        return CheckpointFiles(f"{self._root}/{name}", self._files)

    def _copy(self, source: str, target: str) -> None:
        """A store copies by itself."""
        self._files.create_dir(target)
        pyarrow.fs.copy_files(source, target, source_filesystem=self._files, destination_filesystem=self._files)

    def _names(self) -> set[str]:
        """Names of the checkpoints on Ray's list."""
        return {result["checkpoint_dir_name"] for result in self._listed()}

    def _folders(self) -> set[str]:
        """Names of the checkpoints' folders that are there, whole or not."""
        selector = pyarrow.fs.FileSelector(self._root, allow_not_found=True)
        found = self._files.get_file_info(selector)
        folders = {info.base_name for info in found if info.type == pyarrow.fs.FileType.Directory}
        return {name for name in folders if re.fullmatch(_CHECKPOINT, name)}

    def _listed(self) -> list[dict[str, Any]]:
        """What Ray's list says of each whole checkpoint.

        Raises:
            StorageError: it cannot be read, or names something else.
        """
        listed: list[dict[str, Any]] = (self.read_json(_SNAPSHOT) or {}).get("checkpoint_results", [])
        for result in listed:
            self._check_inside(result["checkpoint_dir_name"], _SNAPSHOT)
        return listed

    def _check_inside(self, name: str, where: str) -> None:
        """Refuse to read, copy or remove what lies elsewhere."""
        if not re.fullmatch(_CHECKPOINT, name):
            raise StorageError(
                f"{self.location}/{where}: names {quoted(str(name))}, which is no checkpoint of this run; somebody "
                "changed it: restore it from a backup, or begin anew under another name"
            )


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
