"""The memory bank's rows on four processes: how long a step waits for them, before and now.

Run `uv run python -m tests.benchmarks.bank_exchange`. "Before": the indices of the batch are gathered, then one
all-to-all brings each rank its own rows and the pool, and the forward pass waits for both. Now: indices are known, rows
are asked for, a stand-in of a forward pass runs, and only then are they waited for. Refreshing is in neither.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from metaug_ray.method import distributed
from metaug_ray.method.targets.memory_bank import MemoryBank
from tests.ranks import run_ranks

RANKS, BATCH, ROWS, VIEWS, NEGATIVES = 4, 32, 100_000, 3, 4096


def before(bank: MemoryBank, index: Tensor, global_index: Tensor) -> Callable[[], object]:
    """As 0.2.0 did it."""
    rows, rank, world = bank._rows, dist.get_rank(), dist.get_world_size()
    gathered = distributed.all_gather_equal(index, torch.device("cpu"))
    pool = torch.randint(ROWS, (NEGATIVES,), generator=torch.Generator().manual_seed(0))
    own = torch.cat([gathered.view(world, -1)] * 2, 1)
    wanted = torch.cat([own[rank], pool])
    here = own // rows._rows_per_rank == rank
    of_all = pool[pool // rows._rows_per_rank == rank]
    counts = here.sum(1).tolist()
    sent = torch.cat([part for each in own[here].split(counts) for part in (each, of_all)])
    owners = wanted // rows._rows_per_rank
    arrived = distributed.exchange(
        rows.local[sent - rows._start],
        [count + len(of_all) for count in counts],
        owners.bincount(minlength=world).tolist(),
    )
    found = arrived[owners.argsort(stable=True).argsort()].transpose(0, 1)
    return lambda: found


def now(bank: MemoryBank, index: Tensor, global_index: Tensor) -> Callable[[], object]:
    return bank.ask(index, 0, global_index=global_index).wait


def measured(rank: int, steps: int, forward: float) -> dict[str, tuple[float, float]]:
    """Median milliseconds until the forward pass begins, and that it is waited after it."""
    bank = MemoryBank(ROWS, VIEWS, negatives=NEGATIVES)
    found: dict[str, list[tuple[float, float]]] = {"before": [], "now": []}
    for step in range(steps):
        indices = torch.randperm(ROWS, generator=torch.Generator().manual_seed(step))[: RANKS * BATCH]
        for name, ask in {"before": before, "now": now}.items():
            dist.barrier()
            began = time.perf_counter()
            wait = ask(bank, indices[rank * BATCH : (rank + 1) * BATCH], indices)
            asked = time.perf_counter()
            # A GPU's forward pass leaves the host free, as this does.
            time.sleep(forward)
            again = time.perf_counter()
            wait()
            found[name].append((asked - began, time.perf_counter() - again))
    return {
        name: (1e3 * statistics.median(a for a, _ in times[1:]), 1e3 * statistics.median(b for _, b in times[1:]))
        for name, times in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=41)
    parser.add_argument("--forward", type=float, default=0.1, help="seconds of the forward pass")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ranks = run_ranks(RANKS, Path(folder), measured, options.steps, options.forward)
    print(f"{RANKS} ranks, {BATCH} images each, {NEGATIVES} negatives of {ROWS} rows, {VIEWS} views\n")
    print("| | ms before the forward pass | ms waited after it |\n|---|---|---|")
    for name in ranks[0]:
        asking, waiting = (statistics.mean(rank[name][place] for rank in ranks) for place in (0, 1))
        print(f"| {name} | {asking:.1f} | {waiting:.1f} |")


if __name__ == "__main__":
    main()
