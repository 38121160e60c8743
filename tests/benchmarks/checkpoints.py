"""What a checkpoint costs the ranks: to agree on it, to write it and to go on from it, as it was and as it is.

Run `uv run python -m tests.benchmarks.checkpoints` (about five minutes on two cores, 4 GB). Gloo ranks of this machine
really write and read one, of three ResNet-50s with all of their tensors at half the width. What the first rank does to
plan for more ranks than a machine has is done with plans that are made up: as many tensors, and a part of the bank's
rows from each rank.

"Was" is up to 0.2.0: DCP got all of the state from every rank, and every rank read all of it.
"""

import argparse
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner, create_default_local_save_plan
from torch.distributed.checkpoint.filesystem import FileSystem, FileSystemReader
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from metaug_ray.config import PretrainSettings
from metaug_ray.method import distributed
from metaug_ray.runtime.checkpoint import load, snapshot, write
from metaug_ray.runtime.checkpoint_files import CheckpointFiles
from metaug_ray.training.state import TrainingState, build_state
from tests.ranks import run_ranks

IMAGES, ROW = 20_000, 3 * 128
MB = 1e6
TENSORS = 1560
ROUNDS = 3


def settings(width: float, encoder: str) -> PretrainSettings:
    return PretrainSettings.model_validate(
        {
            "name": "checkpoints",
            "data": {"beton": "none.beton"},
            "model": {"encoder": encoder, "width": width},
            "training": {"precision": "float32"},
            "compute": {"device": "cpu"},
        }
    )


class Watched:
    """What this rank does to a checkpoint's files, and when its planning ended."""

    read = written = 0
    began = planned = 0.0


@contextmanager
def watched() -> Iterator[Watched]:
    """See what DCP and we do, whoever calls it."""
    seen = Watched()

    def counted(open_file: Any) -> Any:
        @contextmanager
        def counting(*args: Any) -> Iterator[Any]:
            with open_file(*args) as stream:
                yield _Counted(stream, seen)

        return counting

    def timed(finish: Any) -> Any:
        def finished(*args: Any) -> Any:
            seen.planned = time.perf_counter()
            return finish(*args)

        return finished

    with (
        changed(FileSystem, "create_stream", counted),
        changed(CheckpointFiles, "open", counted),
        changed(DefaultSavePlanner, "finish_plan", timed),
    ):
        yield seen


@contextmanager
def changed(of: type, name: str, change: Callable[[Any], Any]) -> Iterator[None]:
    """Another method in the place of one."""
    method = getattr(of, name)
    setattr(of, name, change(method))
    try:
        yield
    finally:
        setattr(of, name, method)


class _Counted:
    def __init__(self, stream: Any, seen: Watched) -> None:
        self._stream, self._seen = stream, seen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, data: Any) -> Any:
        self._seen.written += memoryview(data).nbytes
        return self._stream.write(data)

    def read(self, *size: int) -> bytes:
        data: bytes = self._stream.read(*size)
        self._seen.read += len(data)
        return data

    def readinto(self, into: Any) -> int:
        count: int = self._stream.readinto(into)
        self._seen.read += count
        return count


class Was:
    """The way of earlier versions."""

    @staticmethod
    def broadcast(module: nn.Module) -> None:
        for buffer in module.buffers():
            dist.broadcast(buffer, group=None, group_src=0)

    @staticmethod
    def state(state: TrainingState, group: dist.ProcessGroup) -> dict[str, Any]:
        return state.state_dict()

    @staticmethod
    def write(copied: dict[str, Any], folder: Path, group: dist.ProcessGroup) -> None:
        dcp_save(copied, checkpoint_id=folder, process_group=group)

    @staticmethod
    def load(state: TrainingState, folder: Path, group: dist.ProcessGroup) -> None:
        loaded = state.state_dict()
        dcp_load(loaded, storage_reader=FileSystemReader(folder), process_group=group)
        state.load_state_dict(loaded)


class Now:
    """The way of this version."""

    broadcast = staticmethod(distributed.broadcast_buffers)
    state = staticmethod(snapshot)

    @staticmethod
    def write(copied: dict[str, Any], folder: Path, group: dist.ProcessGroup) -> None:
        write(copied, folder, {}, group, rank=dist.get_rank())

    load = staticmethod(load)


def on_rank(rank: int, folder: Path, chosen: PretrainSettings) -> list[dict[str, float]]:
    """What one rank measures, the old way and the new one."""
    state = build_state(chosen, IMAGES, torch.device("cpu"))
    group = dist.group.WORLD
    assert group is not None
    state.state_dict()  # the optimisers' states come into being
    rounds = [
        [_measured(way, state, folder / f"{way.__name__}-{n}", rank, group) for way in (Was, Now)]
        for n in range(ROUNDS)
    ]
    # Others are at work on the machine: the fastest is the least disturbed.
    return [{name: min(each[way][name] for each in rounds) for name in rounds[0][way]} for way in (0, 1)]


def _measured(
    way: type[Was | Now], state: TrainingState, folder: Path, rank: int, group: dist.ProcessGroup
) -> dict[str, float]:
    broadcasting = _timed(lambda: way.broadcast(state.metaug.model.eager_encoder))
    own, copied = folder / f"rank{rank}", way.state(state, group)
    dist.barrier()
    with watched() as saving:
        saving.began = time.perf_counter()
        writing = _timed(lambda: way.write(copied, own, group))
    for file in own.iterdir():
        file.rename(folder / file.name)
    dist.barrier()
    with watched() as going_on:
        loading = _timed(lambda: way.load(state, folder, group))
    return {
        "broadcasting": broadcasting,
        "planning": saving.planned - saving.began,
        "writing": writing,
        "written": saving.written / MB,
        "loading": loading,
        "read": going_on.read / MB,
    }


def _timed(work: Callable[[], object]) -> float:
    dist.barrier()
    began = time.perf_counter()
    work()
    dist.barrier()
    return time.perf_counter() - began


def _rows_of(rank: int, ranks: int) -> WriteItem:
    """A rank's part of the bank, as a `DTensor` plans it."""
    each = 1000
    offsets, sizes = torch.Size([rank * each, 0]), torch.Size([each, ROW])
    data = TensorWriteData(
        ChunkStorageMetadata(offsets, sizes), TensorProperties(torch.float32), torch.Size([ranks * each, ROW])
    )
    return WriteItem(MetadataIndex("bank.rows", offsets), WriteItemType.SHARD, tensor_data=data)


def planning(ranks: int, *, replicated_from_all: bool, cached: bool = False) -> float:
    """Seconds of the first rank's processor for all plans: to unpickle them, to make one of them, and to pickle what
    each rank gets; of a second checkpoint where they are cached."""
    same = create_default_local_save_plan({f"part.layer{n}.weight": torch.zeros(2) for n in range(TENSORS)}, True)
    plans = [
        SavePlan([*(same.items if replicated_from_all or rank == 0 else ()), _rows_of(rank, ranks)], planner_data={})
        for rank in range(ranks)
    ]
    if cached:
        _planner(ranks, cached=True).create_global_plan(plans)
        plans = [SavePlan([], usable=False) for _ in plans]
    sent = [pickle.dumps(plan) for plan in plans] if not replicated_from_all else [pickle.dumps(plans[0])] * ranks
    began = time.process_time()
    for message in sent:  # each dropped, as all at once take gigabytes
        pickle.loads(message)
    made, _ = _planner(ranks, cached=cached).create_global_plan(plans)
    for plan in made:
        pickle.dumps(plan)
    return time.process_time() - began


def _planner(ranks: int, *, cached: bool) -> DefaultSavePlanner:
    planner = DefaultSavePlanner(enable_plan_caching=cached)
    # All planners of a process share one cache, which refuses another number of ranks.
    planner._cached_plans_key = str(ranks)
    return planner


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--planned", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--width", type=float, default=0.5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        found = run_ranks(
            options.ranks, folder / "ranks", on_rank, folder / "checkpoint", settings(options.width, options.encoder)
        )
    print("| | was | now |\n|---|---|---|")
    n = options.ranks
    rows: list[tuple[str, str, Callable[[list[float]], float], int]] = [
        (f"{n} ranks: broadcasting the encoder's buffers, ms", "broadcasting", lambda its: 1000 * max(its), 1),
        (f"{n} ranks: planning, s", "planning", max, 2),
        (f"{n} ranks: planning and writing, s", "writing", max, 2),
        (f"{n} ranks: written by all, MB", "written", sum, 0),
        (f"{n} ranks: written by the first, MB", "written", lambda its: its[0], 0),
        (f"{n} ranks: going on, s", "loading", max, 2),
        (f"{n} ranks: read by all, MB", "read", sum, 0),
        (f"{n} ranks: read by each but the first, MB", "read", lambda its: max(its[1:]), 0),
    ]
    for name, key, of, digits in rows:
        was, now = (of([rank[way][key] for rank in found]) for way in (0, 1))
        print(f"| {name} | {was:,.{digits}f} | {now:,.{digits}f} |")
    for ranks in options.planned:
        was, now = (planning(ranks, replicated_from_all=before) for before in (True, False))
        print(f"| {ranks:,} ranks: the first one's planning, s | {was:,.2f} | {now:,.3f} |")
        again = planning(ranks, replicated_from_all=False, cached=True)
        print(f"| {ranks:,} ranks: the same with DCP's plans cached, s | | {again:,.3f} |")


if __name__ == "__main__":
    main()
