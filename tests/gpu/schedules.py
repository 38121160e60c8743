"""What the schedules of the meta step are worth, on CIFAR-10: `python -m tests.gpu.schedules --images FILE`.

Each run is a process of its own, and all train at the same time: they are paired by seed, of which networks, order,
crops and negatives are made. `tests/gpu/images.py` makes the file.
"""

import argparse
import json
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from metaug_ray.knn import weighted_knn
from metaug_ray.method.algorithm import MetAug, Minibatch
from metaug_ray.method.views import split_views
from tests.gpu.case import VIEWS, Case, make_metaug
from tests.gpu.images import load_cifar10

# Delta and alpha so large that the generators matter, as in jobs/cifar10_conv.yaml.
_CASE: Final = Case(
    "conv", small_images=True, size=32, batch=256, negatives=4096, hidden=512, bfloat16=False, delta=0.1, alpha=1e-3
)
KINDS: Final = {
    "plain": _CASE.plain(),
    "fused": _CASE,
    "lookahead": replace(_CASE, schedule="lookahead"),
    "lookahead, a quarter": replace(_CASE, schedule="lookahead", share=0.25),
    "lookahead, a quarter, kept": replace(_CASE, schedule="lookahead", share=0.25, keep_activations=True),
}
_QUANTILE: Final = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Student's, for a 95 % interval of so many values."""


def train(case: Case, images: Tensor, epochs: int, device: torch.device) -> tuple[MetAug, float]:
    """A run with a cosine schedule; also the mean of L_ori + delta L_aug over its last epoch."""
    metaug = make_metaug(replace(case, rows=len(images)), device)
    order = torch.Generator().manual_seed(case.seed)
    steps = epochs * (len(images) // case.batch)
    optimizers = [metaug.encoder_optimizer, metaug.head_optimizer, metaug.generator_optimizer]
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, steps) for each in optimizers if each is not None]
    losses: list[Tensor] = []
    while len(losses) < steps:
        for indices in torch.randperm(len(images), generator=order).split(case.batch):
            if len(indices) == case.batch and len(losses) < steps:
                crops = _crops(images[indices.to(device)], case.seed, len(losses))
                outcome = metaug.step(len(losses), Minibatch(split_views(crops, VIEWS), indices))
                losses.append(outcome.losses.total)
                for schedule in schedules:
                    schedule.step()
    return metaug, float(torch.stack(losses[-len(images) // case.batch :]).mean())


def _crops(images: Tensor, seed: int, step: int) -> Tensor:
    """A square of a fifth of the image to all of it, mirrored half of the time; uint8 [B, 3, S, S], channels_last."""
    random = torch.Generator(images.device).manual_seed(1_000_003 * seed + step)
    draws = torch.rand(4, len(images), generator=random, device=images.device)
    side = (0.2 + 0.8 * draws[0]).sqrt()
    mirrored = torch.where(draws[1] < 0.5, -1.0, 1.0)
    x, y = ((1 - side) * (2 * draw - 1) for draw in draws[2:])
    zero = torch.zeros_like(side)
    boxes = torch.stack([torch.stack([side * mirrored, zero, x], 1), torch.stack([zero, side, y], 1)], 1)
    grid = F.affine_grid(boxes, list(images.shape), align_corners=False)
    crops = F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)
    return crops.round().clamp(0, 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def accuracy(metaug: MetAug, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Share of the test images that their neighbours among the training images label as they are."""
    encoder = metaug.model.eager_encoder.eval()

    def represent(images: Tensor) -> Tensor:
        with torch.inference_mode():
            parts = [encoder(split_views(part, VIEWS)).representations for part in images.split(1024)]
        return torch.cat(parts, 1).transpose(0, 1).flatten(1)

    predictions = weighted_knn(represent(train[0]), train[1], represent(test[0]), classes=10)
    return float((predictions == test[1]).float().mean())


def run(
    kind: str, seed: int, file: Path, epochs: int, device: torch.device, count: int | None, **changes: Any
) -> dict[str, Any]:
    learned, judged = (_split(file, split, count, device) for split in ("train", "test"))
    case = replace(KINDS[kind], seed=seed, **changes)
    began = time.monotonic()
    metaug, loss = train(case, learned[0].contiguous(memory_format=torch.channels_last), epochs, device)
    seconds = time.monotonic() - began
    return {"kind": kind, "seed": seed, "knn": accuracy(metaug, learned, judged), "loss": loss, "seconds": seconds}


def _split(file: Path, split: str, count: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    images, labels = load_cifar10(file, split)
    return images[:count].to(device), labels[:count].to(device)


class Found(NamedTuple):
    """Means over the seeds."""

    knn: float
    difference: float
    """Of kNN from `fused`'s, in points, paired by seed."""
    half_width: float
    """Of its 95 % interval."""
    loss: float
    """Of the last epoch."""

    @property
    def said(self) -> str:
        return (
            f"kNN {self.knn:.2%}, {self.difference:+.2f} ± {self.half_width:.2f} points from fused's; "
            f"loss {self.loss:.4f}"
        )


def compare(runs: Sequence[dict[str, Any]]) -> dict[str, Found]:
    """What each kind of step made."""
    by_kind = {kind: {run["seed"]: run for run in runs if run["kind"] == kind} for kind in KINDS}
    found = {}
    for kind, of_seeds in by_kind.items():
        if not of_seeds:
            continue
        others = by_kind["fused"]
        pairs = [100 * (its["knn"] - others[seed]["knn"]) for seed, its in of_seeds.items() if seed in others]
        knn, loss = (statistics.mean(its[name] for its in of_seeds.values()) for name in ("knn", "loss"))
        deviation = statistics.stdev(pairs) if len(pairs) > 1 else math.nan
        half = _QUANTILE.get(len(pairs), math.nan) * deviation / math.sqrt(len(pairs))
        found[kind] = Found(knn, statistics.mean(pairs or [math.nan]), half, loss)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("data/gpu_schedules.json"))
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--count", type=int, help="images of each split; default: all of the file")
    parser.add_argument("--small", action="store_true", help="half the width and half the batch, in bfloat16: for CPUs")
    parser.add_argument("--at-once", type=int, help="runs that train at a time; default: all")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--only", nargs=2, metavar=("KIND", "SEED"), help="one of the runs, in this process")
    options = parser.parse_args()
    if options.only:
        kind, seed = options.only
        torch.set_num_threads(1)
        device = torch.device(options.device)
        small = {"width": 0.5, "batch": _CASE.batch // 2, "bfloat16": True} if options.small else {}
        made = run(kind, int(seed), options.images, options.epochs, device, options.count, **small)
        print(json.dumps(made), flush=True)
        return
    command = [sys.executable, "-m", "tests.gpu.schedules", *sys.argv[1:], "--only"]
    wanted = [(kind, str(seed)) for seed in range(options.seeds) for kind in options.kinds]

    def trained(which: tuple[str, str]) -> dict[str, Any]:
        child = subprocess.run([*command, *which], stdout=subprocess.PIPE, text=True, check=False)
        said = child.stdout
        if child.returncode:
            sys.exit(f"{' '.join([*command, *which])} failed with status {child.returncode}")
        print(said, end="", flush=True)
        made: dict[str, Any] = json.loads(said)
        return made

    runs: list[dict[str, Any]] = []
    with ThreadPoolExecutor(options.at_once or len(wanted)) as pool:
        for made in pool.map(trained, wanted):
            runs.append(made)
            options.output.parent.mkdir(parents=True, exist_ok=True)
            options.output.write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    for kind, found in compare(runs).items():
        print(f"{kind}: {found.said}")


if __name__ == "__main__":
    main()
