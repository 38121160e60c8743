"""The training loop under Ray Train against the same loop under plain PyTorch, and where a step's time goes.

    python -m tests.benchmarks.training

Both are two gloo processes of one thread each, with the same settings, data and steps. Times are those of the loop's
own windows, the first of which (compiling, first touch) is left out. A machine that others share only ever adds to
them, so besides the median the fastest quarter of the windows is compared; and rounds alternate which goes first.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from metaug_ray.config import EncodingSettings, PrepareSettings, PretrainSettings, SourceSettings
from metaug_ray.data.prepare import prepare
from metaug_ray.method import algorithm, distributed
from metaug_ray.method.model import Model
from metaug_ray.method.targets.memory_bank import AskedRows, MemoryBank
from metaug_ray.training import online_evaluation
from metaug_ray.training.state import TrainingState
from tests.ranks import run_ranks
from tests.training.small import run_plain, small_settings

WINDOW = 10


def settings(folder: Path, name: str, epochs: int, encoder: str) -> PretrainSettings:
    return small_settings(
        folder / "shapes.beton",
        name=name,
        model={"encoder": encoder, "small_images": encoder == "conv", "feature_size": 128},
        method={"generator_hidden_size": 512, "meta": {"every": 1}},
        bank={"negatives": 1024},
        training={"epochs": epochs, "batch_size": 64},
        storage=str(folder / "runs"),
        checkpoint={"every_steps": None, "every_minutes": 100},
        health={"log_every": WINDOW},
        tracking={"uri": f"sqlite:///{folder}/mlflow.db"},
    )


def plain_windows(rank: int, chosen: PretrainSettings) -> list[float]:
    recorder, _ = run_plain(rank, chosen)
    return [values["speed/seconds_per_step"] for values in recorder.seen.values()]


def under_plain(folder: Path, epochs: int, encoder: str, round_: int) -> list[float]:
    windows: list[float] = run_ranks(
        2, folder / f"ranks{round_}", plain_windows, settings(folder, "plain", epochs, encoder)
    )[0]
    return windows


def under_ray(folder: Path, epochs: int, encoder: str, round_: int) -> list[float]:
    from metaug_ray.training.trainer import pretrain

    name = f"ray{round_}"
    pretrain(settings(folder, name, epochs, encoder))
    lines = (folder / "runs" / name / "tracking" / "journal.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [
        record["values"]["speed/seconds_per_step"]
        for record in records
        if record["kind"] == "metrics" and "speed/seconds_per_step" in record["values"]
    ]


def parts_of_a_step(rank: int, chosen: PretrainSettings) -> dict[str, float]:
    """Milliseconds per step by part; parts inside others are taken out of them."""
    spent: dict[str, float] = defaultdict(float)
    stack: list[float] = []
    names: list[str] = []

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            # The passes of the meta step count as its own.
            if "meta step" in names and not name.startswith(("communication", "averaging")):
                return function(*arguments, **options)
            names.append(name)
            stack.append(0.0)
            began = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                whole = time.perf_counter() - began
                names.pop()
                spent[name] += whole - stack.pop()
                if stack:
                    stack[-1] += whole

        return call

    for owner, function, name in (
        (distributed, "exchange", "communication of the bank"),
        (AskedRows, "wait", "communication of the bank"),
        (distributed, "average", "averaging (loss, generators' gradient)"),
        (MemoryBank, "ask", "bank"),
        (MemoryBank, "refresh", "bank"),
        (Model, "encode", "forward"),
        (Model, "compare", "contrast"),
        (torch.autograd, "backward", "backward and all-reduce of gradients"),
        (algorithm, "meta_gradient", "meta step"),
        (online_evaluation.OnlineEvaluation, "measure", "kNN and RankMe"),
        (algorithm.MetAug, "step", "rest of the step"),
    ):
        setattr(owner, function, timed(name, getattr(owner, function)))

    def outside(state: TrainingState) -> None:
        for _, optimizer in state.optimizers.values():
            optimizer.step = timed("optimisers", optimizer.step)  # type: ignore[method-assign]

    recorder, _ = run_plain(rank, chosen, change=outside)
    steps = max(recorder.seen)
    waited = statistics.mean(
        values["data/wait_fraction"] * values["speed/seconds_per_step"] for values in list(recorder.seen.values())[1:]
    )
    return {"waiting for data": 1000 * waited} | {name: 1000 * seconds / steps for name, seconds in spent.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=10, help="of 15 steps")
    parser.add_argument("--encoder", default="resnet18")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = SourceSettings(kind="shapes", count=960, size=32)
        encoding = EncodingSettings(preset="small")
        prepare(PrepareSettings(source=source, encoding=encoding, output=folder / "shapes.beton"))
        ratios: dict[str, list[float]] = defaultdict(list)
        print(
            "| round | | plain PyTorch, ms a step | Ray Train, ms a step | ratio |\n|---|---|---|---|---|", flush=True
        )
        for round_ in range(options.rounds):
            order = [under_plain, under_ray] if round_ % 2 == 0 else [under_ray, under_plain]
            windows = {run: sorted(run(folder, options.epochs, options.encoder, round_)[1:]) for run in order}
            for name, times in (
                ("median", {run: statistics.median(seconds) for run, seconds in windows.items()}),
                ("fastest quarter", {run: statistics.mean(s[: len(s) // 4 or 1]) for run, s in windows.items()}),
            ):
                plain, ray_ = 1000 * times[under_plain], 1000 * times[under_ray]
                ratios[name].append(ray_ / plain)
                print(f"| {round_ + 1} | {name} | {plain:.0f} | {ray_:.0f} | {ray_ / plain:.3f} |", flush=True)
        for name, values in ratios.items():
            print(f"| all | {name} | | | {statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f}) |")
        print()
        chosen = settings(folder, "parts", options.epochs, options.encoder)
        parts = run_ranks(2, folder / "parts", parts_of_a_step, chosen)[0]
        whole = sum(parts.values())
        print("| part of a step | ms | share |\n|---|---|---|")
        for name, milliseconds in sorted(parts.items(), key=lambda item: -item[1]):
            print(f"| {name} | {milliseconds:.1f} | {milliseconds / whole:.1%} |")


if __name__ == "__main__":
    main()
