"""What the meta gradient loses where tangents are made of a share of the images (`method.meta.share`).

Run `uv run python -m tests.benchmarks.meta_share` (about ten minutes on two cores). Small networks are trained with the
`lookahead` schedule on the drawn shapes, once for each share and seed. Then, at one state of the first of these runs,
gradients of parts are compared with the whole one, over some minibatches:

- cosine: of the gradient of one part with the whole, in the mean;
- bias: of the mean over all parts against the whole, relative: of batch norm alone, as what is drawn is unbiased;
- kept: with activations of all images' forward pass (`method.meta.keep_activations`), whose batch norm saw them all;
- the same part in v: what both would be if v, too, were made of that part alone, in float32.
"""

import argparse
import statistics
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from metaug_ray.data.sources.shapes import render
from metaug_ray.method.algorithm import MetaStep, MetAug, Minibatch
from metaug_ray.method.contrast import unified_contrast
from metaug_ray.method.encoders import MultiViewEncoder
from metaug_ray.method.generators import Generators
from metaug_ray.method.linearization import Linearization, Part
from metaug_ray.method.meta_gradient import (
    Rates,
    StepTaken,
    linearize,
    lookahead_gradient,
    model_gradient,
    trained,
)
from metaug_ray.method.model import Model
from metaug_ray.method.objective import Objective
from metaug_ray.method.targets.memory_bank import MemoryBank
from metaug_ray.method.views import split_views

VIEWS = ("l", "ab")
LOSSES = ("L_ori", "L_aug")
SHARES = (1, 2, 4, 8)
"""Of how many parts one is taken."""
SIZE, BATCH, CLASSES = 32, 64, 8


def drawn(images: int) -> Tensor:
    """Shapes, uint8 [N, 3, S, S]."""
    return torch.from_numpy(np.stack([render(0, n, n % CLASSES, SIZE) for n in range(images)])).permute(0, 3, 1, 2)


def minibatches(images: Tensor, seed: int) -> Iterator[Minibatch]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for indices in torch.randperm(len(images), generator=generator).split(BATCH):
            if len(indices) == BATCH:
                crops = images[indices]
                if torch.rand((), generator=generator) < 0.5:
                    crops = crops.flip(-1)
                yield Minibatch(split_views([crops], VIEWS), indices)


def made(images: int, parts: int, seed: int) -> MetAug:
    torch.manual_seed(seed)
    encoder = MultiViewEncoder(VIEWS, "resnet18", width=0.5)
    generators = Generators(len(VIEWS), hidden_size=256)
    objective = Objective(partial(unified_contrast, beta=16.0, gamma=0.25), delta=0.1, alpha=1e-3)
    bank = MemoryBank(images, len(VIEWS), negatives=256, seed=seed)
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.03, momentum=0.9) for module in (encoder, generators)]
    return MetAug(Model(encoder, generators, objective), bank, *optimizers, MetaStep("lookahead", share=1 / parts))


def trained_run(images: Tensor, parts: int, seed: int, steps: int) -> tuple[MetAug, dict[str, float]]:
    """A run, and the mean losses of its last fifth."""
    metaug, batches = made(len(images), parts, seed), minibatches(images, seed)
    seen: list[tuple[float, float]] = []
    for step in range(steps):
        losses = metaug.step(step, next(batches)).losses
        seen.append((float(losses.original), float(losses.augmented)))
    last = seen[-steps // 5 :]
    return metaug, dict(zip(LOSSES, map(statistics.mean, zip(*last, strict=True)), strict=True))


def gradients(
    metaug: MetAug, taken: StepTaken, rates: Rates, minibatch: Minibatch, step: int, parts: int
) -> list[list[Tensor]]:
    """Of each part: with v of the whole minibatch, the same with kept activations, and with v of the same part."""
    model = metaug.model
    omega = trained(model.generators)
    sample = metaug.targets.ask(minibatch.indices, step)
    found: list[list[Tensor]] = []
    for same, kept in ((False, False), (False, True), (True, False)):
        found.append([])
        for number in range(parts):
            part = Part(number, parts)
            step_taken = taken
            if kept:
                step_taken = linearize(model, taken, Linearization(model.eager_encoder, part))
            given, keys = minibatch.images, sample
            if same:
                given = [view.chunk(parts)[number] for view in given]
                keys = sample.keys(torch.empty(0)).part(number, parts)
            model_gradient(model, given, keys, generators=True)
            lookahead_gradient(model, step_taken, rates, part=part)
            found[-1].append(torch.cat([parameter.grad.flatten() for parameter in omega.values()]))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300, help="of each run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--minibatches", type=int, default=8, help="that gradients are compared on")
    args = parser.parse_args()
    images = drawn(args.images)
    results = {parts: [trained_run(images, parts, seed, args.steps) for seed in range(args.seeds)] for parts in SHARES}
    metaug = results[1][0][0]
    found = compared(metaug, images, args)
    print(f"resnet18 (half), {len(VIEWS)} views, {SIZE} px, {BATCH} images, {args.steps} steps, {args.seeds} seeds\n")
    print(
        "| share | cosine | bias | cosine, kept | bias, kept | cosine, same part in v | bias, same part in v "
        "| L_ori at the end | L_aug at the end |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for parts in SHARES:
        losses = [loss for _, loss in results[parts]]
        ends = [
            f"{statistics.mean(each):.4f} ± {statistics.stdev(each):.4f}"
            for each in ([loss[name] for loss in losses] for name in LOSSES)
        ]
        print(f"| 1/{parts} | {' | '.join(f'{value:.3f}' for value in found[parts])} | {' | '.join(ends)} |")


def compared(metaug: MetAug, images: Tensor, args: argparse.Namespace) -> dict[int, list[float]]:
    """Cosine and bias of each share and each way of :func:`gradients`."""
    values: dict[int, list[list[float]]] = {parts: [] for parts in SHARES}
    batches = minibatches(images, 10_000)
    for number in range(args.minibatches):
        step = args.steps + 2 * number
        metaug.step(step, next(batches))
        assert metaug.lookahead is not None
        kept = metaug.lookahead.take()
        assert kept is not None
        minibatch = next(batches)
        (whole,), *_ = gradients(metaug, *kept, minibatch, step + 1, 1)
        for parts in SHARES:
            row = []
            for found in gradients(metaug, *kept, minibatch, step + 1, parts):
                row.append(statistics.mean(float(torch.cosine_similarity(each, whole, dim=0)) for each in found))
                row.append(float((torch.stack(found).mean(0) - whole).norm() / whole.norm()))
            values[parts].append(row)
    return {parts: [statistics.mean(column) for column in zip(*rows, strict=True)] for parts, rows in values.items()}


if __name__ == "__main__":
    main()
