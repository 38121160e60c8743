"""What grows on a worker's host with the images or the workers: `uv run python -m tests.benchmarks.host_costs`.

Half a minute of one CPU thread, by its own clock; a machine that others share still adds to it. These are the defaults
of `--plan.host.*` in `jobs/plan_capacity.py`.
"""

import pickle
import threading
import time
from collections.abc import Callable

import numpy as np
import psutil
import torch
from ffcv.memory_managers import OSCacheManager
from ffcv.types import ALLOC_TABLE_TYPE
from torch.distributed.checkpoint._dedup_save_plans import dedup_save_plans
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan, create_default_local_save_plan

from metaug_ray.config import HostSettings
from metaug_ray.data.order import TrainingEpoch
from metaug_ray.method.targets.sharded_rows import ShardedRows

IMAGES = 10_000_000
READER_IMAGES = 1_000_000
TENSORS = 1500
WORKERS = 64
OWN, SHARED, PEERS = 2 * 32, 4096, 256
ARRAYS = 24 + 24 + 21 + 3 * 8
"""Bytes an image of the loader's arrays: FFCV's table twice (as it is, and sorted), its fields, labels and sizes."""


def measured(work: Callable[[], object]) -> tuple[float, int]:
    """Seconds, and bytes of main memory that were taken at most meanwhile."""
    process, done = psutil.Process(), threading.Event()
    before = greatest = process.memory_info().rss

    def watch() -> None:
        nonlocal greatest
        while not done.wait(0.005):
            greatest = max(greatest, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.process_time()
    kept = work()
    seconds = time.process_time() - began
    done.set()
    watcher.join()
    del kept
    return seconds, greatest - before


class Beton:
    """What FFCV's manager of the cache asks a reader for."""

    page_size = 8 << 20

    def __init__(self, images: int) -> None:
        self.alloc_table = np.zeros(images, ALLOC_TABLE_TYPE)
        self.alloc_table["sample_id"] = np.arange(images)
        self.alloc_table["ptr"] = np.arange(images) * 56_000
        self.alloc_table["size"] = 56_000


def exchange() -> float:
    """What a fetch and a refresh look through, as `metaug_ray.method.targets.sharded_rows` does."""
    per_rank = 5000
    own, pool = (torch.randint(per_rank * PEERS, shape) for shape in ((PEERS, OWN), (SHARED,)))
    began = time.process_time()
    here = own // per_rank == 0
    of_all = pool[pool // per_rank == 0]
    torch.cat([part for mine in own[here].split(here.sum(1).tolist()) for part in (mine, of_all)])
    batch = own[:, : OWN // 2]
    arriving = batch // per_rank == 0
    batch[arriving].tolist(), arriving.sum(1).tolist()
    return time.process_time() - began


def planning() -> float:
    """Seconds to send all plans and to make one of them."""
    plan = create_default_local_save_plan({f"part.layer{i}.weight": torch.zeros(2) for i in range(TENSORS)}, True)
    began = time.process_time()
    plans = [pickle.loads(pickle.dumps(plan)) for _ in range(WORKERS)]
    create_default_global_save_plan(dedup_save_plans(plans))
    return time.process_time() - began


def main() -> None:
    torch.set_num_threads(1)
    default = HostSettings()
    beton = Beton(READER_IMAGES)
    opening, tables = measured(lambda: OSCacheManager(beton))
    drawing, order = measured(lambda: TrainingEpoch(IMAGES, 128, 0, 8, 0, 0, "sort"))
    rows, _ = measured(lambda: ShardedRows(100_000, 3, 128, seed=0, dtype=torch.float32, device="cpu", group=None))
    exchange()
    found = {
        "reader_bytes": tables / READER_IMAGES + ARRAYS,
        "reader_microseconds": 1e6 * opening / READER_IMAGES,
        "order_bytes": order / IMAGES,
        "order_nanoseconds": 1e9 * drawing / IMAGES,
        "row_nanoseconds": 1e9 * rows / (100_000 * 3 * 128),
        "exchange_nanoseconds": 1e9 * min(exchange() for _ in range(5)) / (PEERS * OWN),
        "planning_microseconds": 1e6 * planning() / (WORKERS * TENSORS),
    }
    print("| | measured | default |\n|---|---|---|")
    for name, value in found.items():
        print(f"| plan.host.{name} | {value:.3g} | {getattr(default, name):g} |")


if __name__ == "__main__":
    main()
