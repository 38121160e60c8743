"""Plans against what 1, 2 and 4 workers do here: `uv run python -m tests.benchmarks.capacity` (about three minutes).

Workers are gloo processes of one thread each, with 16 images each, as `tests/ranks.py` starts them; images are random,
and nothing is loaded. A plan is made from the step of one worker alone, and from what gloo does between two of them
(bytes/s of a large all-reduce, time of a small one). Its bytes are compared with those that the kernel counts on the
processes' connections. Its times are compared with the steps' own, the fastest quarter of them, as others who use the
machine only ever add to them.

With more workers than cores the plan's step is taken as many times as workers share a core, computing and network alike
(gloo's bandwidth within a machine is the work of its cores). So 4 workers here say whether bytes and calls are right,
and not how 4 machines would do.
"""

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from metaug_ray.capacity.links import Links
from metaug_ray.capacity.sizes import sizes_of
from metaug_ray.capacity.traffic import Collective, collectives, sent_in_a_step
from metaug_ray.config import PretrainSettings
from metaug_ray.data.cpus import available_cpus
from metaug_ray.method.algorithm import Minibatch
from metaug_ray.method.views import split_views
from metaug_ray.training.state import build_state
from tests.ranks import run_ranks
from tests.sockets import received_bytes
from tests.training.small import small_settings

IMAGES, SAMPLES = 16, 10_000
LARGE = 32 << 20
"""Bytes of the all-reduce that tells the bandwidth."""


@dataclass(frozen=True)
class Measured:
    """Of one worker: seconds of each step, and bytes that arrived in a step."""

    seconds: list[float]
    received: float


def run_of(workers: int, *, generators: bool) -> PretrainSettings:
    return small_settings(
        Path("/none.beton"),
        model={"views": ("rgb", "l", "ab"), "encoder": "resnet18", "width": 1.0, "feature_size": 128},
        method={"generators": generators, "generator_hidden_size": 512, "meta": {"every": 1}},
        bank={"negatives": 1024},
        training={"batch_size": workers * IMAGES},
    )


def steps(rank: int, run: PretrainSettings, count: int) -> Measured:
    """Steps of this rank, after three that arrange everything."""
    state = build_state(run, SAMPLES, torch.device("cpu"))
    views = split_views(torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8), run.model.views)
    seconds, before = [], 0
    for number in range(count + 3):
        if number == 3:
            before = received_bytes()
        minibatch = Minibatch(views, torch.randint(SAMPLES, (IMAGES,)))
        began = time.perf_counter()
        state.metaug.step(number, minibatch)
        seconds.append(time.perf_counter() - began)
    return Measured(seconds[3:], (received_bytes() - before) / count)


def link(rank: int) -> tuple[float, float]:
    """Bytes/s that each of the ranks sends in a large all-reduce, and seconds of a small one."""
    large, small = torch.zeros(LARGE // 4), torch.zeros(2)
    found = []
    for tensor, count in ((large, 20), (small, 200)):
        times = []
        for _ in range(count):
            dist.barrier()
            began = time.perf_counter()
            dist.all_reduce(tensor)
            times.append(time.perf_counter() - began)
        found.append(fastest(times))
    ranks = dist.get_world_size()
    return 2 * (ranks - 1) / ranks * LARGE / found[0], found[1]


def fastest(seconds: list[float]) -> float:
    """Mean of the fastest quarter."""
    return statistics.mean(sorted(seconds)[: max(1, len(seconds) // 4)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24, help="of each round, after three to warm up")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        measured: dict[tuple[bool, int], list[Measured]] = {}
        bandwidth, small = 0.0, 1.0
        for round_ in range(options.rounds):
            for each, took in run_ranks(2, folder / f"link{round_}", link):
                bandwidth, small = max(bandwidth, each), min(small, took)
            for generators in (False, True):
                for workers in (1, 2, 4):
                    where = folder / f"{round_}-{generators}-{workers}"
                    ranks = run_ranks(workers, where, steps, run_of(workers, generators=generators), options.steps)
                    measured.setdefault((generators, workers), []).extend(ranks)
    # A small all-reduce of two is two messages that wait for one another.
    links = Links(per_node=4, local=bandwidth, node=bandwidth, latency=small / 2)
    print(f"gloo between two processes: {bandwidth / 1e9:.2f} GB/s, {1e6 * small / 2:.0f} us a message\n")
    print("| step | workers | ms, planned | network's part | measured | ratio | MB sent, planned | counted | ratio |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (generators, workers), ranks in measured.items():
        alone = fastest([s for each in measured[generators, 1] for s in each.seconds])
        print(row(generators, workers, ranks, alone, links))


def row(generators: bool, workers: int, ranks: list[Measured], alone: float, links: Links) -> str:
    run = run_of(workers, generators=generators)
    found: list[Collective] = collectives(run, sizes_of(run), IMAGES, meta=generators)
    shared = max(1.0, workers / available_cpus())
    network = shared * links.seconds(found, workers)
    planned = shared * alone + network
    took = fastest([s for each in ranks for s in each.seconds])
    sent = sent_in_a_step(found, workers)
    received = statistics.mean(each.received for each in ranks)
    bytes_ = f"{sent / 1e6:.2f} | {received / 1e6:.2f} | {received / sent:.3f}" if sent else "0 | 0 | "
    kind = "fused" if generators else "plain"
    times = f"{1e3 * planned:.0f} | {1e3 * network:.0f} | {1e3 * took:.0f} | {took / planned:.2f}"
    return f"| {kind} | {workers} | {times} | {bytes_} |"


if __name__ == "__main__":
    main()
