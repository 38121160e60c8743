"""A training state on disk, by `torch.distributed.checkpoint`: any number of ranks loads what any other one saved."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_map

from metaug_ray.training.state import TrainingState

DESCRIPTION: Final = "run.json"
"""File of a checkpoint that says in words what it is of: settings, data, step."""


class CheckpointError(Exception):
    """A checkpoint that cannot be written or read."""


def snapshot(state: TrainingState, group: dist.ProcessGroup | None = None) -> dict[str, Any]:
    """A copy of the state in the CPU's memory, which training may then move away from.

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

    copied: dict[str, Any] = tree_map(copy, state.state_dict())
    return copied


def write(
    copied: dict[str, Any],
    folder: Path,
    description: dict[str, Any],
    group: dist.ProcessGroup | None = None,
    *,
    rank: int = 0,
) -> None:
    """Write this rank's part of a :func:`snapshot`. A collective call, on a group that nothing else uses meanwhile.

    Args:
        copied: the snapshot.
        folder: this rank's own, or one for all; emptied of what an interrupted attempt left, if it is this rank's own.
        description: written by the first rank as `DESCRIPTION`.
        group: as for :func:`snapshot`.
        rank: of this process.

    Raises:
        CheckpointError: it cannot be written, such as on a full disk.
    """
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp_save(copied, checkpoint_id=folder, process_group=group)
        if rank == 0:
            (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    # torch's own error is no Exception, and would end a thread without a word.
    except (CheckpointException, OSError) as error:
        raise CheckpointError(
            f"{folder}: the checkpoint cannot be written ({_reason(error)}); is the disk full?"
        ) from error


def load(state: TrainingState, folder: Path) -> None:
    """Take over a whole state. A collective call where there are several ranks.

    Raises:
        CheckpointError: it cannot be read, or is of other networks, optimisers or data.
    """
    loaded = state.state_dict()
    _read(loaded, folder)
    state.load_state_dict(loaded)


def load_networks(state: TrainingState, folder: Path, *, bank: bool, generators: bool) -> None:
    """Take over encoders and heads and, if asked, the bank's rows and the generators: a warm start. A collective call.

    Raises:
        CheckpointError: it cannot be read, or is of other networks, or of another bank where that is asked for.
    """
    loaded = state.networks()
    for part, wanted in (("bank", bank), ("generators", generators)):
        if not wanted:
            loaded.pop(part, None)
    _read(loaded, folder)


def load_modules(modules: dict[str, nn.Module], folder: Path) -> None:
    """Take over the weights of some networks, by a state's names for them: `encoder`, `generators`.

    Raises:
        CheckpointError: it cannot be read, or is of other networks.
    """
    _read({name: module.state_dict() for name, module in modules.items()}, folder)


def describe(folder: Path) -> dict[str, Any]:
    """The description of a checkpoint.

    Raises:
        CheckpointError: it is not there or not readable.
    """
    try:
        description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: is no whole checkpoint of a run ({error})") from error
    return description


def _read(into: dict[str, Any], folder: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            dcp_load(into, checkpoint_id=folder)
    except (CheckpointException, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}: the checkpoint does not fit this run or is damaged ({_reason(error)})"
        ) from error


def _reason(error: BaseException) -> str:
    """The last line: torch puts whole tracebacks before it."""
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else repr(error)
