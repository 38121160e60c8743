"""What a data set of hundreds of millions of images takes of a worker: `python -m tests.benchmarks.data_scale`.

Old and new beside one another, each in a process of its own, by the wall's clock: the order of an epoch on one worker
of 1,024, and the tables of one loader. It writes a sparse file of half a GB of real tables beside images that take no
room, and takes 3 GB of memory, two minutes of one core.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ffcv.memory_managers import OSCacheManager
from ffcv.reader import Reader

from metaug_ray.config import AugmentationSettings
from metaug_ray.data.beton import BetonWriter
from metaug_ray.data.encoding import EncodedImage
from metaug_ray.data.ffcv_api import ALLOC_TABLE_TYPE, HeaderType
from metaug_ray.data.loader import PretrainingLoader
from metaug_ray.data.manifest import Manifest, manifest_path
from metaug_ray.data.mapped import IMAGE, LABEL, METADATA_TYPE, TABLES_START
from metaug_ray.data.order import TrainingEpoch
from metaug_ray.data.randomness import Draws

ORDERED, SORTED = 400_000_000, 40_000_000
OPENED, READ_BY_FFCV = 10_000_000, 1_000_000
WORKERS, EACH, SHARDS = 1024, 128, 1024
SIDE, APART = 8, 4096
"""Of each stored image in pixels, and of its place from the next one's in bytes."""
ROWS_AT_ONCE = 1 << 20
HEAD = "| | million images | time | its own memory | pages of files, which the system takes back | |"


class Memory(NamedTuple):
    """In bytes."""

    own: int
    of_files: int


def draw_all(images: int) -> object:
    """The order of an epoch as it was: each worker sorted all images, and took its own."""
    steps = images // (WORKERS * EACH)
    order = np.argsort(Draws(0, 0, np.arange(images)).uniform("order"), kind="stable")
    return order[: steps * WORKERS * EACH].reshape(steps, WORKERS, EACH)[:, 5]


def permute(shards: list[int]) -> object:
    """The order of an epoch as it is: a worker computes its own images, block by block."""
    return sum(len(block) for block in TrainingEpoch(shards, EACH, 5, WORKERS, 0, 0).blocks())


def read_tables(beton: Path) -> object:
    """A loader's tables as they were: FFCV's reader twice, its manager of the cache, labels and sizes."""
    tables = Reader(str(beton))
    image = tables.metadata["f0"]
    columns = [tables.metadata["f1"].astype(np.int64), *(image[side].astype(np.int64) for side in ("height", "width"))]
    return columns, OSCacheManager(Reader(str(beton)))


def open_loader(beton: Path) -> PretrainingLoader:
    """A loader as it is, with all that it keeps."""
    return PretrainingLoader(beton, EACH, 32, AugmentationSettings(), seed=0, cpus=1, device=torch.device("cpu"))


def open_and_look(beton: Path) -> object:
    """A loader with the rows of a block of images, which map a page of each table for each."""
    loader = open_loader(beton)
    return loader, next(iter(TrainingEpoch([loader.samples], EACH, 0, 1, 0, 0).blocks())), next(loader.epoch(0))


def synthetic(beton: Path, images: int) -> Path:
    """A beton of black pixels in holes of the file, with tables as `BetonWriter` makes them."""
    black = EncodedImage(0, SIDE, SIDE, False, bytes(3 * SIDE * SIDE), 0)
    with BetonWriter(beton, 1) as writer:
        writer.append(black)
    first = -(-(TABLES_START + images * METADATA_TYPE.itemsize) // APART) * APART
    header = np.fromfile(beton, HeaderType, 1)
    header["num_samples"], header["alloc_table_ptr"] = images, first + images * APART
    with beton.open("r+b") as file:
        file.truncate(first + images * (APART + ALLOC_TABLE_TYPE.itemsize))
        file.write(header.tobytes())
        for start in range(0, images, ROWS_AT_ONCE):
            samples = np.arange(start, min(start + ROWS_AT_ONCE, images))
            metadata, places = np.zeros(len(samples), METADATA_TYPE), np.zeros(len(samples), ALLOC_TABLE_TYPE)
            metadata[IMAGE]["height"] = metadata[IMAGE]["width"] = SIDE
            places["sample_id"], places["ptr"], places["size"] = samples, first + samples * APART, 3 * SIDE * SIDE
            metadata[IMAGE]["data_ptr"], metadata[LABEL] = places["ptr"], samples % 1000
            for table, begins in ((metadata, TABLES_START), (places, int(header["alloc_table_ptr"][0]))):
                file.seek(begins + start * table.itemsize)
                file.write(table.tobytes())
    manifest = Manifest(
        source={}, samples=images, classes=[], class_counts=[], encoding={}, height=(SIDE, SIDE), width=(SIDE, SIDE),
        bytes=beton.stat().st_size, sha256="0" * 64, created="2026-01-01T00:00:00+00:00", versions={},
    )  # fmt: skip
    manifest_path(beton).write_text(manifest.model_dump_json())
    return beton


def resident() -> Memory:
    """Main memory that this process has now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = {
        name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "Rss" in name
    }
    return Memory(1024 * kilobytes["RssAnon"], 1024 * kilobytes["RssFile"])


def measured(work: Callable[[], object]) -> tuple[float, Memory]:
    """Seconds, and the main memory that was taken at most meanwhile."""
    done = threading.Event()
    before = resident()
    seen = [before]

    def watch() -> None:
        while not done.wait(0.002):
            seen.append(resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    kept = work()
    seconds = time.perf_counter() - began
    done.set()
    watcher.join()
    seen.append(resident())
    del kept
    return seconds, Memory(*(max(now) - was for now, was in zip(zip(*seen, strict=True), before, strict=True)))


WORK: dict[str, Callable[[Path, int], object]] = {
    "sort": lambda beton, images: draw_all(images),
    "permute": lambda beton, images: permute([images]),
    "permute shards": lambda beton, images: permute([images // SHARDS] * SHARDS),
    "read": lambda beton, images: read_tables(beton),
    "open": lambda beton, images: open_loader(beton),
    "look": lambda beton, images: open_and_look(beton),
}


def alone(what: str, images: int, beton: Path = Path()) -> tuple[float, Memory]:
    """Seconds and memory of one kind of work, in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.data_scale", "--one", what, "--images", str(images)]
    found = subprocess.run([*command, "--beton", str(beton)], stdout=subprocess.PIPE, check=True).stdout
    seconds, taken = json.loads(found)
    return seconds, Memory(*taken)


def line(what: str, images: int, seconds: float, taken: Memory, by: float = 1) -> str:
    """A row of the table; measured with fewer images where `by` is more than 1."""
    how = "measured" if by == 1 else f"{by:g} times what {images / by / 1e6:g} million take"
    sizes = " | ".join(f"{size * by / 1e6:,.1f} MB" for size in taken)
    return f"| {what} | {images / 1e6:g} | {seconds * by:.3g} s | {sizes} | {how} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", type=int, default=1, help="divide all numbers of images by this")
    parser.add_argument("--one", choices=WORK, help=argparse.SUPPRESS)
    parser.add_argument("--images", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--beton", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        # What is compiled or imported at first use is not of the images.
        np.random.default_rng(0).permutation(10)
        print(json.dumps(measured(lambda: WORK[args.one](args.beton, args.images))))
        return
    ordered, sorted_, opened, read = (count // args.part for count in (ORDERED, SORTED, OPENED, READ_BY_FFCV))
    with tempfile.TemporaryDirectory() as name:
        large, small = synthetic(Path(name, "large.beton"), opened), synthetic(Path(name, "small.beton"), read)
        lines = [
            line("an epoch's order, sorted", ordered, *alone("sort", sorted_), ordered / sorted_),
            line("an epoch's order, permuted", ordered, *alone("permute", ordered)),
            line(f"the same, of {SHARDS:,} shards", ordered, *alone("permute shards", ordered)),
            line("a loader's tables, as FFCV reads them", opened, *alone("read", read, small), opened / read),
            line("a loader's tables, mapped", opened, *alone("open", opened, large)),
            line("the same, with 64 batches looked up and the first decoded", opened, *alone("look", opened, large)),
        ]
    print("\n".join([HEAD, "|---|---|---|---|---|---|", *lines]))


if __name__ == "__main__":
    main()
