"""What grows on a worker's host with the images or the workers: `uv run python -m tests.benchmarks.host_costs`.

Half a minute of one CPU thread, by its own clock; a machine that others share still adds to it. These are the defaults
of `--plan.host.*` in `jobs/plan_capacity.py`.
"""

import time

import torch

from metaug_ray.config import HostSettings
from metaug_ray.method.targets.sharded_rows import ShardedRows

OWN, SHARED, PEERS = 2 * 32, 4096, 256


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


def main() -> None:
    torch.set_num_threads(1)
    default = HostSettings()
    began = time.process_time()
    ShardedRows(100_000, 3, 128, seed=0, dtype=torch.float32, device="cpu", group=None)
    rows = time.process_time() - began
    exchange()
    found = {
        "row_nanoseconds": 1e9 * rows / (100_000 * 3 * 128),
        "exchange_nanoseconds": 1e9 * min(exchange() for _ in range(5)) / (PEERS * OWN),
    }
    print("| | measured | default |\n|---|---|---|")
    for name, value in found.items():
        print(f"| plan.host.{name} | {value:.3g} | {getattr(default, name):g} |")


if __name__ == "__main__":
    main()
