"""A training state on disk, by `torch.distributed.checkpoint`: any number of ranks loads what any other one saved."""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from metaug_ray.method import distributed
from metaug_ray.private import map_nested
from metaug_ray.runtime.checkpoint_files import CheckpointFiles
from metaug_ray.runtime.errors import RESTORE, CheckpointError
from metaug_ray.runtime.nested import leaves, picked, put
from metaug_ray.runtime.plain_checkpoint import PlainPlanner, PlainReader, read_index, write_index_sum

DESCRIPTION: Final = "run.json"
"""File of a checkpoint that says in words what it is of: settings, data, step."""


_ARRIVAL: Final = timedelta(minutes=5)
"""Ranks come to write within seconds of one another: a rank that is missed for longer has failed."""

_Read = TypeVar("_Read")


class Checkpointed(Protocol):
    """What has a state that a checkpoint holds."""

    def state_dict(self) -> dict[str, Any]:
        """All of it, nested; a collective call."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of this form."""


def snapshot(state: Checkpointed, group: dist.ProcessGroup | None = None) -> dict[str, Any]:
    """A copy in the CPU's memory of what this rank writes of the state, which training may then move away from.

    That is its part of each `DTensor`; and, on the first rank alone, all that is the same on all ranks, which others
    would plan, gather and drop again.

    Args:
        state: of this rank; a collective call.
        group: a group of all ranks that can communicate CPU tensors; None where there is one rank.
    """

    def copy(value: Any) -> Any:
        if isinstance(value, DTensor):
            local = value.to_local().to("cpu", copy=True)
            mesh = DeviceMesh.from_group(group, "cpu") if group is not None else value.device_mesh
            return DTensor.from_local(
                local, mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride()
            )
        return value.detach().to("cpu", copy=True) if isinstance(value, torch.Tensor) else value

    first = distributed.rank(group) == 0
    return map_nested(copy, picked(state.state_dict(), lambda leaf: first or isinstance(leaf, DTensor)))


def write(
    copied: dict[str, Any],
    folder: Path,
    description: dict[str, Any],
    group: dist.ProcessGroup | None = None,
    *,
    rank: int = 0,
    arrival: timedelta = _ARRIVAL,
) -> None:
    """Write this rank's part of a :func:`snapshot`. A collective call, on a group that nothing else uses meanwhile.

    All ranks must come to it within a few minutes; that one then takes longer to write than the others is waited for as
    long as the group waits.

    Args:
        copied: the snapshot.
        folder: this rank's own; emptied of what an interrupted attempt left.
        description: written by the first rank as `DESCRIPTION`.
        group: as for :func:`snapshot`.
        rank: of this process.
        arrival: how long ranks wait for the last one to come.

    Raises:
        CheckpointError: it cannot be written on some rank, such as on a full disk; or a rank did not come, or was lost.
    """
    try:
        if distributed.world_size(group) > 1:
            dist.monitored_barrier(group, arrival, wait_all_ranks=True)
        # DCP makes the folder: where one rank cannot, it tells all others.
        shutil.rmtree(folder, ignore_errors=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp_save(copied, checkpoint_id=folder, process_group=group)
        if rank == 0:
            write_index_sum(folder)
            (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    # torch's own error is no Exception, and would end a thread without a word.
    except (CheckpointException, OSError) as error:
        raise CheckpointError(
            f"{folder}: the checkpoint cannot be written ({_reason(error)}); is the disk full?"
        ) from error
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder}: the checkpoint is not written, as a worker was lost or did not come to write it within "
            f"{arrival.total_seconds():g} s ({_reason(error)}); look for what that worker said last"
        ) from error


def load(state: Checkpointed, folder: Path | CheckpointFiles, group: dist.ProcessGroup | None = None) -> None:
    """Take over a whole state. A collective call where there are several ranks.

    Args:
        state: of this rank.
        folder: of the checkpoint.
        group: as for :func:`load_part`.

    Raises:
        DamagedCheckpointError: its files are not those that were written.
        CheckpointError: it cannot be read, or is of other networks, optimisers or data.
    """
    loaded = state.state_dict()
    load_part(loaded, folder, group)
    state.load_state_dict(loaded)


def describe(folder: Path | CheckpointFiles) -> dict[str, Any]:
    """The description of a checkpoint.

    Raises:
        CheckpointError: it is not there or not readable.
    """
    try:
        with _files(folder).open(DESCRIPTION) as file:
            description: dict[str, Any] = json.load(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: is no whole checkpoint of a run ({error})") from error
    return description


def load_part(part: dict[str, Any], folder: Path | CheckpointFiles, group: dist.ProcessGroup | None = None) -> None:
    """Read some of a state, such as the weights of a network, into the tensors that are there. A collective call where
    there are several ranks.

    The first rank reads the index and what is the same on all ranks, and gives it to the others; of a `DTensor` each
    rank reads its part.

    Args:
        part: nested tensors, by the state's names for them.
        folder: of the checkpoint.
        group: a group of all ranks that can communicate CPU tensors; None for the default one.

    Raises:
        DamagedCheckpointError: its files are not those that were written.
        CheckpointError: it cannot be read, or is of something else.
    """
    files = _files(folder)
    index = _once(lambda: read_index(files), files, group)
    replicated = picked(part, lambda leaf: not isinstance(leaf, DTensor))

    def read() -> dict[tuple[str, ...], Any]:
        _read(replicated, files, index, no_dist=True)
        return {path: leaf for path, leaf in leaves(replicated).items() if not isinstance(leaf, torch.Tensor)}

    for path, value in _once(read, files, group).items():
        put(part, path, value)
    tensors = [leaf for leaf in leaves(replicated).values() if isinstance(leaf, torch.Tensor)]
    distributed.broadcast(tensors, group, via="cpu")
    if sharded := picked(part, lambda leaf: isinstance(leaf, DTensor)):
        with _named(files):
            _read(sharded, files, index, process_group=group)


def _files(folder: Path | CheckpointFiles) -> CheckpointFiles:
    return folder if isinstance(folder, CheckpointFiles) else CheckpointFiles(folder)


def _read(part: dict[str, Any], files: CheckpointFiles, index: Metadata, **ranks: Any) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        dcp_load(part, storage_reader=PlainReader(files, index), planner=PlainPlanner(), **ranks)


def _once(read: Callable[[], _Read], files: CheckpointFiles, group: dist.ProcessGroup | None) -> _Read:
    """What the first rank reads, on all ranks; where it cannot, all fail alike."""
    outcome: list[Any] = [None, None, None, None]
    if distributed.rank(group) == 0:
        try:
            with _named(files):
                outcome[0] = read()
        except CheckpointError as error:
            # Whether trying again may help depends on the cause.
            outcome[1:] = [type(error), error.args, error.__cause__ if isinstance(error.__cause__, OSError) else None]
    if distributed.world_size(group) > 1:
        dist.broadcast_object_list(outcome, group=group, group_src=0)
    value, kind, arguments, cause = outcome
    if kind is not None:
        raise kind(*arguments) from cause
    read_value: _Read = value
    return read_value


@contextmanager
def _named(files: CheckpointFiles) -> Iterator[None]:
    """Turn what may go wrong in reading into a sentence."""
    try:
        yield
    except CheckpointError:
        raise
    # torch's own error is no Exception.
    except (CheckpointException, Exception) as error:
        if refused := _refusal(error):
            raise type(refused)(*refused.args) from error
        raise CheckpointError(
            f"{files}: the checkpoint cannot be read or does not fit this run ({_reason(error)}). {RESTORE}"
        ) from error


def _refusal(error: BaseException) -> CheckpointError | None:
    """What our own reader refused, on whatever rank."""
    failures = error.failures.values() if isinstance(error, CheckpointException) else ()
    return next((failure for failure, _ in failures if isinstance(failure, CheckpointError)), None)


def _reason(error: BaseException) -> str:
    """The last line: torch puts whole tracebacks before it."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else repr(error)
