"""What each of several ranks plans, writes and reads of a checkpoint."""

import io
import os
import sys
import time
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlan
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from metaug_ray.method import distributed
from metaug_ray.runtime.checkpoint import load, load_part, snapshot, write
from metaug_ray.runtime.checkpoint_files import CheckpointFiles
from metaug_ray.runtime.errors import CheckpointError
from tests.ranks import run_ranks

RANKS = 4
ROWS = 10  # uneven: 3, 3, 3, 1
SHARED = {"weight", "half", "count", "on", "step", "names"}


class State:
    """What is the same on all ranks, of all kinds, and rows of which each rank has a part."""

    def __init__(self, value: float) -> None:
        rank, world = distributed.rank(), distributed.world_size()
        first, last = (min(-(-ROWS // world) * place, ROWS) for place in (rank, rank + 1))
        rows = value * torch.arange(float(2 * ROWS)).view(ROWS, 2)
        self.held: dict[str, Any] = {
            "networks": {
                "weight": torch.full((2, 3, 4, 4), value).to(memory_format=torch.channels_last),
                "half": torch.full((5,), value).bfloat16(),
                "count": torch.tensor(int(value)),
                "on": torch.tensor(value > 0),
            },
            "progress": {"step": int(value), "names": [str(value)], "group": {}},
            "bank": {"rows": distributed.sharded(rows[first:last], 0, shape=rows.shape)},
        }

    def state_dict(self) -> dict[str, Any]:
        return self.held

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.held = state

    def check(self, other: "State") -> None:
        for name, value in other.held["networks"].items():
            assert torch.equal(self.held["networks"][name], value), name
        assert self.held["progress"] == other.held["progress"]
        rows, others = (distributed.local_part(state.held["bank"]["rows"]) for state in (self, other))
        assert torch.equal(rows, others)


class Counted:
    """Files of a folder that this process opens, as Python's interpreter sees it."""

    def __init__(self, folder: Path) -> None:
        self.names: Counter[str] = Counter()
        self._folder = str(folder)
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(self._folder):
            self.names[str(arguments[0]).rpartition("/")[2]] += 1


def written(rank: int, folder: Path) -> list[str]:
    """Names that this rank's plan holds, as the checkpoint is written."""
    plans: list[SavePlan] = []
    plan = DefaultSavePlanner.create_local_plan

    def seen(planner: DefaultSavePlanner) -> SavePlan:
        plans.append(plan(planner))
        return plans[-1]

    DefaultSavePlanner.create_local_plan = seen  # type: ignore[method-assign]
    own = folder / f"rank{rank}"
    write(snapshot(State(7.0)), own, {"step": 7}, dist.group.WORLD, rank=rank)
    for file in own.iterdir():
        file.rename(folder / file.name)
    return [item.index.fqn.rpartition(".")[2] for item in plans[0].items]


def read(rank: int, folder: Path, *, from_store: bool = False) -> Counter[str]:
    """Files that this rank opens."""
    opened = Counted(folder)
    state = State(0.0)
    state.held["progress"]["names"] = []
    # Arrow asks the one of fsspec as it would ask a store that it does not know.
    store = PyFileSystem(FSSpecHandler(LocalFileSystem())) if from_store else None
    load(state, CheckpointFiles(folder, store), dist.group.WORLD)
    state.check(State(7.0))
    return opened.names


def saved_as_before(rank: int, folder: Path) -> None:
    """As earlier versions did: all of the state from all ranks."""
    dcp_save(State(7.0).held, checkpoint_id=folder)


def test_the_first_rank_alone_plans_and_reads_what_all_have(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    first, *others = run_ranks(RANKS, tmp_path / "writers", written, folder)
    assert sorted(first) == sorted(SHARED | {"rows"})
    assert others == [["rows"]] * (RANKS - 1)
    for from_store in (False, True):
        reading = partial(read, from_store=from_store)
        opened, *opened_by_others = run_ranks(RANKS, tmp_path / f"readers-{from_store}", reading, folder)
        # Once for what all have, once for its rows.
        assert opened == Counter({".metadata": 1, ".metadata.sha256": 1, "__0_0.distcp": 2})
        assert opened_by_others == [Counter({f"__{rank}_0.distcp": 1}) for rank in range(1, RANKS)]


def test_a_store_is_asked_once_for_what_lies_side_by_side(tmp_path: Path) -> None:
    """300 values of one file, in another order than they lie there."""
    names = [f"{n:03}" for n in range(300)]
    write({name: torch.full((3,), float(name)) for name in names}, tmp_path / "checkpoint", {})
    asked: list[int] = []

    class Asked(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(-1 if size is None else size)
            asked.append(len(data))
            return data

    class Store(LocalFileSystem):  # type: ignore[misc]
        cachable = False

        def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
            return Asked(path)

    loaded = {name: torch.zeros(3) for name in reversed(names)}
    load_part(loaded, CheckpointFiles(tmp_path / "checkpoint", PyFileSystem(FSSpecHandler(Store()))))
    assert all(value.tolist() == 3 * [float(name)] for name, value in loaded.items())
    stored = sum(
        (tmp_path / "checkpoint" / name).stat().st_size for name in (".metadata", ".metadata.sha256", "__0_0.distcp")
    )
    assert sum(asked) == stored
    assert len([size for size in asked if size]) == 3


@pytest.mark.parametrize("ranks", [1, 3])
def test_checkpoints_are_those_of_earlier_versions(tmp_path: Path, ranks: int) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    run_ranks(RANKS, tmp_path / "before", saved_as_before, old)
    run_ranks(RANKS, tmp_path / "now", written, new)
    before, now = (FileSystemReader(folder).read_metadata() for folder in (old, new))
    assert now.state_dict_metadata == before.state_dict_metadata
    assert now.planner_data == before.planner_data
    assert now.storage_data.keys() == before.storage_data.keys()
    for name, folder in (("old", old), ("new", new)):
        run_ranks(ranks, tmp_path / f"{name}-read", read, folder)


def refused(rank: int, folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load(State(0.0), folder)
    return str(caught.value)


def test_all_ranks_refuse_what_the_first_one_cannot_read(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    run_ranks(2, tmp_path / "writers", written, folder)
    part = folder / "__0_0.distcp"
    part.write_bytes(part.read_bytes()[:100])
    messages = run_ranks(2, tmp_path / "readers", refused, folder)
    assert messages[0] == messages[1]
    assert "checkpoint: is damaged: __0_0.distcp holds other bytes than were written" in messages[0]


def left_alone(rank: int, folder: Path, fate: str) -> tuple[str, float] | None:
    """What a rank says, and after how long, whose fellow does not come to write."""
    group = dist.new_group(backend="gloo", timeout=timedelta(hours=12))
    copied = snapshot(State(7.0), group)
    began = time.monotonic()
    if rank == 1:
        if fate == "dies":
            torch.save(None, folder.parent / "rank1.pt")
            os._exit(0)
        # Until the others have given up, as a rank that goes on training.
        while len(list(folder.parent.glob("gave-up-*"))) < RANKS - 1:
            time.sleep(0.05)
        return None
    with pytest.raises(CheckpointError) as caught:
        write(copied, folder / f"rank{rank}", {}, group, rank=rank, arrival=timedelta(seconds=3))
    (folder.parent / f"gave-up-{rank}").touch()
    return str(caught.value), time.monotonic() - began


@pytest.mark.parametrize("fate", ["dies", "stays away"])
def test_who_does_not_come_is_missed_before_long(tmp_path: Path, fate: str) -> None:
    first, missing, *others = run_ranks(RANKS, tmp_path, left_alone, tmp_path / "checkpoint", fate)
    assert missing is None
    assert "Ranks 1 failed to pass" in first[0]
    for message, seconds in (first, *others):
        assert "did not come to write it within 3 s" in message
        assert seconds < 30


def fails_in_its_folder(rank: int, folder: Path) -> tuple[str, float]:
    own = folder / f"rank{rank}"
    if rank == 1:
        folder.mkdir(parents=True)
        own.symlink_to("/proc/nowhere")
    group = dist.new_group(backend="gloo", timeout=timedelta(hours=12))
    began = time.monotonic()
    with pytest.raises(CheckpointError) as caught:
        write(snapshot(State(7.0), group), own, {}, group, rank=rank)
    return str(caught.value), time.monotonic() - began


def test_who_cannot_write_tells_the_others(tmp_path: Path) -> None:
    for message, seconds in run_ranks(RANKS, tmp_path, fails_in_its_folder, tmp_path / "checkpoint"):
        assert "cannot be written" in message
        assert seconds < 30
