"""Plans against what 1, 2 and 4 workers do here: `uv run python -m tests.benchmarks.capacity` (about three minutes).

Workers are gloo processes of one thread each, with 16 images each, as `tests/ranks.py` starts them; images are random,
and nothing is loaded. A plan is made from the step of one worker alone, and from what gloo does between two of them
(bytes/s of a large all-reduce, time of a small one). Its bytes are compared with those that the kernel counts on the
processes' connections. Its times are compared with the steps' own, the fastest quarter of them, as others who use the
machine only ever add to them: by the wall's clock, and by the processes' own, which stand while others have the cores.

With more workers than cores the plan's step is taken as many times as workers share a core, computing and network alike
(gloo's bandwidth within a machine is the work of its cores). So 4 workers here say whether bytes and calls are right,
and not how 4 machines would do.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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


CLOCKS = {"wall": time.perf_counter, "processes": time.process_time}
Times = dict[str, list[float]]
"""Seconds of each repetition, by clock."""


@dataclass(frozen=True)
class Measured:
    """Of one worker: its steps, and bytes that arrived in a step."""

    seconds: Times
    received: float


def run_of(workers: int, *, generators: bool) -> PretrainSettings:
    return small_settings(
        Path("/none.beton"),
        model={"views": ("rgb", "l", "ab"), "encoder": "resnet18", "feature_size": 128},
        method={"generators": generators, "generator_hidden_size": 512, "meta": {"every": 1}},
        bank={"negatives": 1024},
        training={"batch_size": workers * IMAGES},
    )


def timed(work: Callable[[], object], times: Times) -> None:
    began = {name: clock() for name, clock in CLOCKS.items()}
    work()
    for name, clock in CLOCKS.items():
        times.setdefault(name, []).append(clock() - began[name])


def steps(rank: int, run: PretrainSettings, count: int) -> Measured:
    """Steps of this rank, after three that arrange everything."""
    state = build_state(run, SAMPLES, torch.device("cpu"))
    views = split_views(torch.randint(256, (IMAGES, 3, 32, 32), dtype=torch.uint8), run.model.views)
    seconds: Times = {}
    before = 0
    for number in range(count + 3):
        if number == 3:
            before = received_bytes()
            seconds.clear()
        minibatch = Minibatch(views, torch.randint(SAMPLES, (IMAGES,)))
        timed(partial(state.metaug.step, number, minibatch), seconds)
    return Measured(seconds, (received_bytes() - before) / count)


def link(rank: int) -> tuple[Times, Times]:
    """Seconds of large all-reduces and of small ones."""
    large: Times = {}
    small: Times = {}
    for times, size, count in ((large, LARGE // 4, 20), (small, 2, 200)):
        tensor = torch.zeros(size)
        for _ in range(count):
            dist.barrier()
            timed(partial(dist.all_reduce, tensor), times)
    return large, small


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
        linked: list[tuple[Times, Times]] = []
        for round_ in range(options.rounds):
            linked += run_ranks(2, folder / f"link{round_}", link)
            for generators in (False, True):
                for workers in (1, 2, 4):
                    where, run = folder / f"{round_}-{generators}-{workers}", run_of(workers, generators=generators)
                    ranks = run_ranks(workers, where, steps, run, options.steps)
                    measured.setdefault((generators, workers), []).extend(ranks)
    heads = ("clock", "step", "workers", "ms, planned", "network's part", "measured", "ratio")
    print(f"| {' | '.join(heads)} | MB sent, planned | counted | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for clock in CLOCKS:
        # Of two ranks each sends a large all-reduce once; a small one is two messages that wait for one another.
        bandwidth = LARGE / fastest([s for large, _ in linked for s in large[clock]])
        links = Links(4, bandwidth, bandwidth, fastest([s for _, small in linked for s in small[clock]]) / 2)
        for (generators, workers), ranks in measured.items():
            alone = fastest([s for each in measured[generators, 1] for s in each.seconds[clock]])
            took = fastest([s for each in ranks for s in each.seconds[clock]])
            # A process's own clock stands while the others have its core.
            took *= sharing(workers) if clock == "processes" else 1.0
            received = statistics.mean(each.received for each in ranks)
            print(f"| {clock} {row(generators, workers, alone, links, took, received)}")
        print(f"gloo between two processes: {bandwidth / 1e9:.2f} GB/s, {1e6 * links.latency:.0f} us a message")


def sharing(workers: int) -> float:
    """Workers on each core."""
    return max(1.0, workers / available_cpus())


def row(generators: bool, workers: int, alone: float, links: Links, took: float, received: float) -> str:
    """What is planned, from one worker `alone`, and what was measured, of a step in seconds and of its bytes."""
    run = run_of(workers, generators=generators)
    found: list[Collective] = collectives(run, sizes_of(run), IMAGES, meta=generators)
    network = sharing(workers) * links.seconds(found, workers)
    planned = sharing(workers) * alone + network
    sent = sent_in_a_step(found, workers)
    bytes_ = f"{sent / 1e6:.2f} | {received / 1e6:.2f} | {received / sent:.3f}" if sent else "0 | 0 | "
    kind = "fused" if generators else "plain"
    seconds = f"{1e3 * planned:.0f} | {1e3 * network:.0f} | {1e3 * took:.0f} | {took / planned:.2f}"
    return f"| {kind} | {workers} | {seconds} | {bytes_} |"


if __name__ == "__main__":
    main()
