"""Time and peak memory of one training step: without a meta step, with ours, and with the textbook's.

Run `uv run python -m tests.benchmarks.meta_step` (half an hour on two cores; `--help` for sizes). Every variant
runs in a process of its own, alone, which measures its peak resident memory over the memory before the first step. All
variants have their turn in each of some rounds, so that a slow minute of the machine hits all of them: a new process
each time, as one that waits for the others has its memory taken, and its steps slow down. "double back-propagation" is
the textbook version of the fused step: one graph through forward, backward and virtual step, nothing computed twice.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from metaug_ray.choices import COLOR_CHANNELS
from metaug_ray.method.algorithm import MetaStep, MetAug, Minibatch
from metaug_ray.method.contrast import unified_contrast
from metaug_ray.method.encoders import MultiViewEncoder
from metaug_ray.method.generators import Generators
from metaug_ray.method.model import Model
from metaug_ray.method.objective import Objective
from metaug_ray.method.targets.memory_bank import MemoryBank
from tests.method.double_backward import double_backward

VIEWS = ("rgb", "l", "ab")
VARIANTS: dict[str, MetaStep | None] = {
    "plain only-OUCL": None,
    "fused": MetaStep("fused"),
    "fused, tangents of a quarter": MetaStep("fused", share=0.25),
    "lookahead": MetaStep("lookahead"),
    "lookahead, tangents of a quarter": MetaStep("lookahead", share=0.25),
    "fused, activations kept": MetaStep("fused", keep_activations=True),
    "fused, activations kept, tangents of a quarter": MetaStep("fused", share=0.25, keep_activations=True),
    "lookahead, activations kept": MetaStep("lookahead", keep_activations=True),
    "lookahead, activations kept, tangents of a quarter": MetaStep("lookahead", share=0.25, keep_activations=True),
    "separate": MetaStep("separate"),
    "double back-propagation": None,
}


WARM_UP = 2


class Measured(NamedTuple):
    seconds: float
    """Of a step, the median of all rounds."""
    peak: int
    """Bytes."""
    parameters: int
    """Bytes of one copy of the encoder's."""


def make_step(
    variant: str, encoder: str, size: int, batch: int, device: torch.device
) -> tuple[Callable[[int], None], int]:
    """The step, and the bytes of one copy of the encoder's parameters."""
    torch.manual_seed(0)
    # As `compute.channels_last` has it by default.
    networks = MultiViewEncoder(VIEWS, encoder).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    generators = None if variant == "plain only-OUCL" else Generators(len(VIEWS)).to(device)
    objective = Objective(partial(unified_contrast, beta=16.0, gamma=0.25), delta=1e-2, alpha=1e-3)
    model = Model(networks, generators, objective, torch.bfloat16 if device.type == "cuda" else None)
    bank = MemoryBank(50_000, len(VIEWS), device=device)
    encoder_optimizer = torch.optim.SGD(networks.parameters(), lr=0.03, momentum=0.9)
    generator_optimizer = (
        None if generators is None else torch.optim.SGD(generators.parameters(), lr=0.03, momentum=0.9)
    )

    def minibatch(seed: int) -> Minibatch:
        generator = torch.Generator().manual_seed(seed)
        images = [torch.randn(batch, COLOR_CHANNELS[v], size, size, generator=generator).to(device) for v in VIEWS]
        images = [view.contiguous(memory_format=torch.channels_last) for view in images]
        return Minibatch(images, torch.randint(50_000, (batch,), generator=generator))

    first, second = minibatch(1), minibatch(2)
    parameter_bytes = sum(p.nbytes for p in networks.parameters())
    if variant != "double back-propagation":
        meta = VARIANTS[variant] or MetaStep()
        separate = meta.schedule == "separate"
        metaug = MetAug(model, bank, encoder_optimizer, generator_optimizer, meta)

        def step(number: int) -> None:
            metaug.step(number, first, second if separate else None)

        return step, parameter_bytes

    def double(number: int) -> None:
        sample = bank.sample(first.indices, number)
        gradients = double_backward(model, first.images, sample, virtual_learning_rate=1e-3)
        for module, its in ((networks, gradients.theta), (generators, gradients.omega)):
            for parameter, gradient in zip(module.parameters(), its, strict=True):
                parameter.grad = gradient
        encoder_optimizer.step()
        bank.refresh(sample, gradients.features)
        generator_optimizer.step()

    return double, parameter_bytes


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure_variant(variant: str, encoder: str, size: int, batch: int, steps: int, device: torch.device) -> None:
    """Print the seconds of each step, peak bytes and parameter bytes."""
    step, parameter_bytes = make_step(variant, encoder, size, batch, device)
    before = resident_bytes()
    seconds = []
    for number in range(WARM_UP + steps):
        start = time.perf_counter()
        step(number)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(json.dumps({"seconds": seconds[WARM_UP:], "peak": peak, "parameters": parameter_bytes}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--size", type=int, default=64, help="image size, px")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 16], help="batch sizes")
    parser.add_argument("--steps", type=int, default=4, help=f"steps of a process that count, after {WARM_UP}")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each variant")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS), help="the plain one first")
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        device = torch.device(args.device)
        measure_variant(args.variant, args.encoder, args.size, args.batch[0], args.steps, device)
        return
    print(f"{args.encoder}, 3 views, {args.size} px, {args.device}, {torch.get_num_threads()} threads\n")
    print("| batch | step | s | time / plain | peak MB | extra over plain, in copies of theta |")
    print("|---|---|---|---|---|---|")
    for batch in args.batch:
        rows = compare(args, batch)
        plain = rows[args.variants[0]]
        for variant, its in rows.items():
            print(
                f"| {batch} | {variant} | {its.seconds:.2f} | {its.seconds / plain.seconds:.2f} "
                f"| {its.peak / 1e6:.0f} | {(its.peak - plain.peak) / its.parameters:+.1f} |"
            )


def compare(args: argparse.Namespace, batch: int) -> dict[str, Measured]:
    seconds: dict[str, list[float]] = {variant: [] for variant in args.variants}
    measured = {}
    for number in range(args.rounds):
        for variant in args.variants:
            print(f"batch {batch}, round {number + 1} of {args.rounds}: {variant}", file=sys.stderr, flush=True)
            command = [sys.executable, "-m", "tests.benchmarks.meta_step", "--variant", variant]
            command += ["--encoder", args.encoder, "--size", str(args.size), "--batch", str(batch)]
            command += ["--steps", str(args.steps), "--device", args.device]
            made = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
            seconds[variant] += made["seconds"]
            measured[variant] = Measured(statistics.median(seconds[variant]), made["peak"], made["parameters"])
    return measured


if __name__ == "__main__":
    main()
