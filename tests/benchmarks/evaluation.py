"""What judging as many representations as ImageNet has takes: `uv run python -m tests.benchmarks.evaluation`.

Float32 noise, 1,281,167 x 6,144 numbers (three ResNet-50s), in a file under `--folder` that is removed at the end. The
first `--written` rows are written, the others are a hole in the file: they take no room on the disk, and are read like
any, as zeros that the kernel makes. That bounds no disk's time; what is read from a disk takes as long as it takes.

Each measurement is a process of its own. Its memory is RssAnon + RssShmem of its whole process tree at the peak: what
the kernel cannot take back. Pages of the file that it keeps in its cache beside (`fincore`) are free memory, and go
when somebody wants them.

"Before" is what earlier versions did, of the first `--before` rows: all rows are copied into Ray's object store (here:
into blocks of this process), a probe's task copies all of them into one tensor, and the standardisation copies nine
tenths of that. Its memory grows with the rows, so that what all of them would have taken is arithmetic.
"""

import argparse
import multiprocessing
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from metaug_ray.config import ProbeSettings
from metaug_ray.data.cpus import available_cpus
from metaug_ray.evaluation.linear_probe import _standardisation, _train
from metaug_ray.evaluation.probe_rows import InMemory, Rows, Streamed
from metaug_ray.evaluation.stored import COMPLETE, Labelled, in_parts
from metaug_ray.knn import nearest_neighbours

CPU = torch.device("cpu")
QUERIES_OF_IMAGENET, EPOCHS = 50_000, 30
GIB = 2**30


@dataclass(frozen=True)
class Sizes:
    """The options."""

    images: int
    size: int
    written: int
    before: int
    queries: int
    steps: int
    classes: int
    memory: float
    folder: Path


Seconds = dict[str, float]


class Clock:
    """Seconds of one thing after the other."""

    def __init__(self) -> None:
        self.seconds: Seconds = {}
        self._since = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = now - self._since
        self._since = now


def knn_before(train: Labelled, queries: Labelled, sizes: Sizes) -> Seconds:
    clock = Clock()
    store = _object_store(train)
    clock.lap("store")
    asked = queries.load(np.arange(sizes.queries), torch.empty(sizes.queries, sizes.size))
    for part in asked.split(4096):
        nearest_neighbours((torch.tensor(block) for block in store), part, 20)
    clock.lap("knn")
    return clock.seconds


def knn_now(train: Labelled, queries: Labelled, sizes: Sizes) -> Seconds:
    clock = Clock()
    asked = queries.load(np.arange(sizes.queries), torch.empty(sizes.queries, sizes.size))
    nearest_neighbours(train.blocks(np.arange(len(train.labels)), CPU), asked, 20)
    clock.lap("knn")
    return clock.seconds


def probe_before(train: Labelled, _: Labelled, sizes: Sizes) -> Seconds:
    clock = Clock()
    store = _object_store(train)
    clock.lap("store")
    rows = torch.empty(len(train.labels), train.size)
    for start, block in zip(range(0, len(rows), 4096), store, strict=True):
        rows[start : start + len(block)] = torch.from_numpy(block)
    clock.lap("copy")
    return clock.seconds | _probe(InMemory(rows, torch.tensor(train.labels)), sizes)


def probe_now(train: Labelled, _: Labelled, sizes: Sizes) -> Seconds:
    window = train.rows_within(sizes.memory * GIB / 2)
    rows = Streamed(train, np.arange(len(train.labels)), torch.tensor(train.labels), window)
    clock = Clock()
    epoch = rows.epoch(torch.arange(len(train.labels)), _settings(sizes).batch_size, torch.Generator().manual_seed(1))
    next(epoch)
    clock.lap("window")
    del epoch
    return clock.seconds | _probe(rows, sizes)


def _object_store(train: Labelled) -> list[NDArray[np.float32]]:
    return list(train.read(in_parts(np.arange(len(train.labels)))))


def _settings(sizes: Sizes) -> ProbeSettings:
    # No epoch, which an evaluation has at least one of: these steps and no more.
    return ProbeSettings().model_copy(update={"epochs": 0, "least_steps": sizes.steps})


def _probe(rows: Rows, sizes: Sizes) -> Seconds:
    """Of the sweep over all settings side by side: the standardisation, and some steps."""
    settings = _settings(sizes)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(rows.labels), generator=generator)
    rest = order[len(order) // 10 :]
    rates = [(rate, decay) for rate in settings.learning_rates for decay in settings.weight_decays]
    clock = Clock()
    mean, scale = _standardisation(rows, rest)
    clock.lap("standardisation")
    _train(rows, rest, sizes.classes, rates, settings, generator, mean, scale)
    clock.lap("steps")
    return clock.seconds


@dataclass(frozen=True)
class Measured:
    """Seconds by name, and GiB of memory at the peak."""

    seconds: Seconds
    memory: float


def measured(work: Callable[[], Seconds]) -> Measured:
    """In a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(work, theirs))
    process.start()
    theirs.close()
    peak = 0
    while not ours.poll(0.05):
        peak = max(peak, _memory(process.pid))
    seconds = ours.recv()
    process.join()
    return Measured(seconds, peak / GIB)


def _child(work: Callable[[], Seconds], results: Connection) -> None:
    torch.set_num_threads(available_cpus())
    results.send(work())


def _memory(pid: int | None) -> int:
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            fields = dict(
                line.split(":", 1)
                for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
                if ":" in line
            )
            total += sum(1024 * int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem") if name in fields)
    except (psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
        pass
    return total


def keep(folder: Path, rows: int, written: int, sizes: Sizes) -> Labelled:
    """Representations as an evaluation keeps them."""
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(rows)
    stored = np.lib.format.open_memmap(
        folder / "representations.npy", "w+", np.dtype(np.float32), (rows, 3, sizes.size // 3)
    )
    with (folder / "representations.npy").open("r+b") as file:
        file.seek(stored.offset)
        for start in range(0, min(rows, written), 4096):
            noise = torch.randn(min(4096, rows - start, written - start), sizes.size, generator=generator)
            noise.numpy().tofile(file)
    (folder / COMPLETE).write_text("{}\n")
    labels = np.random.default_rng(0).integers(sizes.classes, size=rows)
    return Labelled.of(stored, slice(None), labels)


def first(labelled: Labelled, rows: int) -> Labelled:
    return Labelled(
        labelled.file,
        labelled.offset,
        labelled.shape,
        labelled.encoders,
        labelled.images[:rows],
        labelled.labels[:rows],
    )


def cached(file: Path) -> float:
    """GiB of a file that the machine's file cache has."""
    told = subprocess.run(["fincore", "-b", "-n", "-o", "RES", str(file)], capture_output=True, text=True, check=True)
    return int(told.stdout) / GIB


def minutes(seconds: float) -> str:
    return (
        f"{seconds:.1f} s"
        if seconds < 60
        else f"{seconds / 60:.1f} min"
        if seconds < 5400
        else f"{seconds / 3600:.0f} h"
    )


def options() -> Sizes:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_281_167)
    parser.add_argument("--size", type=int, default=6144)
    parser.add_argument("--written", type=int, default=131_072)
    parser.add_argument("--before", type=int, default=98_304)
    parser.add_argument("--queries", type=int, default=2000)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--memory", type=float, default=8.0)
    parser.add_argument("--folder", type=Path, default=Path("data/benchmark_evaluation"))
    return Sizes(**vars(parser.parse_args()))


def main() -> None:
    sizes = options()
    row = 4 * sizes.size / GIB
    missing = row * (sizes.images - sizes.before)
    try:
        train = keep(sizes.folder / "train", sizes.images, sizes.written, sizes)
        queries = keep(sizes.folder / "queries", sizes.queries, sizes.queries, sizes)
        some = first(train, sizes.before)

        def run(work: Callable[[Labelled, Labelled, Sizes], Seconds], learnt: Labelled) -> Measured:
            return measured(partial(work, learnt, queries, sizes))

        print(
            f"{sizes.images:,} x {sizes.size:,} numbers, {row * sizes.images:.1f} GiB; {sizes.queries:,} queries; "
            f"{sizes.steps} steps of {sizes.classes:,} classes x 12 settings\n",
            flush=True,
        )
        header = f"| | images | memory at the peak | seconds | memory of all {sizes.images:,} | time of all |"
        print(header + "\n|---|---|---|---|---|---|", flush=True)

        def tell(what: str, images: int, found: Measured, memory: float, seconds: float) -> None:
            laps = ", ".join(f"{name} {each:.1f}" for name, each in found.seconds.items())
            print(
                f"| {what} | {images:,} | {found.memory:.1f} GiB | {laps} | {memory:.1f} GiB | {minutes(seconds)} |",
                flush=True,
            )

        share = QUERIES_OF_IMAGENET / sizes.queries
        found = run(knn_before, some)
        whole = found.seconds["knn"] * share * sizes.images / sizes.before
        tell("kNN, before", sizes.before, found, found.memory + missing, whole)
        found = run(knn_now, some)
        tell("kNN, now", sizes.before, found, found.memory, found.seconds["knn"] * share * sizes.images / sizes.before)
        found = run(knn_now, train)
        tell("kNN, now", sizes.images, found, found.memory, found.seconds["knn"] * share)
        in_cache = cached(train.file)

        # The object store, the copy, and nine tenths of it.
        found = run(probe_before, some)
        steps = 0.9 * EPOCHS * sizes.images / 256
        whole = steps * found.seconds["steps"] / sizes.steps
        tell("probe, before", sizes.before, found, found.memory + 2.9 * missing, whole)
        found = run(probe_now, train)
        each = found.seconds["window"] / min(sizes.images, train.rows_within(sizes.memory * GIB / 2))
        reading = 0.9 * EPOCHS * sizes.images * each
        computing = steps * (found.seconds["steps"] - found.seconds["window"]) / sizes.steps
        tell("probe, now", sizes.images, found, found.memory, found.seconds["standardisation"] + reading + computing)
        print(f"\nThe sweep's {EPOCHS} epochs read for {minutes(reading)}, and compute for {minutes(computing)}.")
        print(f"After the kNN the file cache had {in_cache:.1f} GiB of the file.")
    finally:
        shutil.rmtree(sizes.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
