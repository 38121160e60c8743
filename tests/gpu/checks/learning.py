"""A run that learns, in bfloat16 and in float32: finite losses, unit rows, curves that agree, a loss that falls."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from metaug_ray.method.algorithm import MetAug, Minibatch
from metaug_ray.method.views import split_views
from tests.gpu.case import VIEWS, Case, make_images, make_metaug
from tests.gpu.setting import Row, Setting, held, skipped

END = 16
"""Steps at either end whose mean loss is compared: two epochs."""
SECONDS_NEEDED = 12.0
"""That must be left for a run to begin."""


def learning(setting: Setting) -> Iterator[Row]:
    case = replace(setting.sizes.small, delta=1e-2, alpha=1e-3)
    images = make_images(case, setting.device, case.rows)
    curves = {}
    for name, bfloat16 in (("bfloat16", True), ("float32", False)):
        if setting.left < SECONDS_NEEDED:
            yield skipped(name, "no time left")
            return
        metaug = make_metaug(replace(case, bfloat16=bfloat16), setting.device)
        losses = curves[name] = _train(metaug, case, images, setting.sizes.learning_steps)
        end = min(END, len(losses) // 2)
        first, last = float(losses[:end].mean()), float(losses[-end:].mean())
        measured = f"{len(losses)} steps, loss {first:.4f} to {last:.4f}"
        # A few steps of the quick check show nothing yet.
        falls = setting.quick or last < first
        yield held(name, measured, bool(losses.isfinite().all()) and falls, first=first, last=last)
        norms = metaug.targets.state_dict()["rows"].float().norm(dim=-1)
        off = float((norms - 1).abs().max())
        yield held(f"{name}: norms of the bank's rows", f"1 +- {off:.1e} (bar 1e-3)", off <= 1e-3, off=off)
    difference = float((curves["bfloat16"] - curves["float32"]).abs().mean())
    share = difference / (first - last)
    measured = f"{difference:.4f} a step in the mean, {share:.1%} of the fall (bar 25 %)"
    yield held("bfloat16 against float32", measured, setting.quick or abs(share) <= 0.25, difference=difference)
    pairs = zip(*(losses.tolist() for losses in curves.values()), strict=True)
    curve = "\n".join(f"{step:4d} {wide:.5f} {narrow:.5f}" for step, (narrow, wide) in enumerate(pairs))
    setting.log(f"step, loss in float32, loss in bfloat16\n{curve}")


def _train(metaug: MetAug, case: Case, images: Tensor, steps: int) -> Tensor:
    """The loss of each step, over epochs of all images in random order."""
    losses: list[Tensor] = []
    random = torch.Generator().manual_seed(0)
    while len(losses) < steps:
        for indices in torch.randperm(len(images), generator=random).split(case.batch):
            if len(losses) < steps:
                batch = images[indices.to(images.device)].contiguous(memory_format=torch.channels_last)
                outcome = metaug.step(len(losses), Minibatch(split_views(batch, VIEWS), indices))
                losses.append(outcome.losses.total)
    return torch.stack(losses)
