"""How exact the second-order part of the meta gradient is on real images.

ResNet-50s train on ImageNet's sample; at the start and after some steps that part is made in several precisions, of the
same parameters and images, and compared with the one in float64.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from metaug_ray.method import meta_gradient as module
from metaug_ray.method.algorithm import MetAug, Minibatch
from metaug_ray.method.model import Model
from metaug_ray.method.views import split_views
from tests.gpu.case import VIEWS, Case, make_metaug
from tests.gpu.images import load_imagenet_sample
from tests.gpu.setting import Row, Setting, skipped
from tests.gpu.switches import switched

_CASE: Final = Case(batch=32, rows=1000, negatives=512, delta=0.1, alpha=1e-3)
_TOY: Final = replace(_CASE, encoder="conv", width=0.5, batch=8, hidden=64, negatives=64)
_STEPS: Final = (0, 30, 150)
"""After how many the part is looked at."""
_LEARNING_RATE: Final = 1e-3


class _Precision(NamedTuple):
    """Of the passes that make v, and of the tangents."""

    passes: torch.dtype | None = None
    """What autocast takes."""
    tangents: torch.dtype | None = None
    tf32_passes: bool = True
    tf32_tangents: bool = True


_PRECISIONS: Final = {
    "float32": _Precision(tf32_passes=False, tf32_tangents=False),
    "TF32": _Precision(),
    "bfloat16": _Precision(torch.bfloat16, torch.bfloat16),
    "bfloat16 with tangents in float32": _Precision(torch.bfloat16, tf32_tangents=False),
    "bfloat16 with tangents in TF32": _Precision(torch.bfloat16),
    "float32 with tangents in bfloat16": _Precision(None, torch.bfloat16, tf32_passes=False),
}


def real_images(setting: Setting) -> Iterator[Row]:
    if setting.images is None:
        yield skipped("second-order part", "no --images")
        return
    case, device = (_TOY if setting.quick else _CASE), setting.device
    images = load_imagenet_sample(setting.images).to(device).contiguous(memory_format=torch.channels_last)
    metaug = make_metaug(case, device)
    random, made = torch.Generator().manual_seed(0), 0
    for until in _STEPS[: 2 if setting.quick else None]:
        while made < (2 if setting.quick and until else until):
            indices = torch.randperm(len(images), generator=random)[: case.batch]
            batch = images[indices.to(device)].contiguous(memory_format=torch.channels_last)
            metaug.step(made, Minibatch(split_views(batch, VIEWS), indices))
            made += 1
        batch = images[: case.batch]
        whole, exact = _parts(_copy(metaug.model, torch.float64, None), batch, metaug, torch.float64)
        cosines = {}
        for name, precision in _PRECISIONS.items():
            model = _copy(metaug.model, torch.float32, precision.passes)
            with _precision(precision):
                _, ours = _parts(model, batch, metaug, torch.float32)
            cosines[name] = float(ours @ exact / (ours.norm() * exact.norm()))
        share = float(exact.norm() / whole.norm())
        said = ", ".join(f"{cosine:.4f} in {name}" for name, cosine in cosines.items())
        yield Row(
            f"second-order part after {made} steps",
            f"{share:.2%} of the gradient; cosine with float64's {said}",
            numbers={"share": share} | cosines,
        )


@contextmanager
def _precision(precision: _Precision) -> Iterator[None]:
    forward_mode = module._forward_mode

    def tangents(model: Model, *arguments: Any) -> Tensor:
        with switched(torch.backends.cudnn, allow_tf32=precision.tf32_tangents):
            return forward_mode(replace(model, autocast=precision.tangents), *arguments)

    with (
        switched(torch.backends.cudnn, allow_tf32=precision.tf32_passes),
        patch.object(module, "_forward_mode", tangents),
    ):
        yield


def _parts(model: Model, images: Tensor, metaug: MetAug, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The generators' gradient and its second-order part, flat, in float64."""
    indices = torch.arange(len(images))
    sample = metaug.targets.ask(indices, 0).keys(images)
    sample = sample._replace(**{name: its.to(dtype) for name, its in sample._asdict().items() if _floats(its)})  # type: ignore[attr-defined]
    views = [view.to(dtype) for view in split_views(images, VIEWS)]
    whole = _gradient(model, views, sample)
    with patch.object(module, "_forward_mode", lambda *_: torch.zeros(len(VIEWS), len(images), 1).to(images.device)):
        return whole, whole - _gradient(model, views, sample)


def _gradient(model: Model, views: list[Tensor], sample: object) -> Tensor:
    assert model.generators is not None
    features = module.model_gradient(model, views, sample).output.features  # type: ignore[arg-type]
    module.meta_gradient(model, views, sample, virtual_learning_rate=_LEARNING_RATE, features=features)  # type: ignore[arg-type]
    return torch.cat([p.grad.flatten().double() for p in model.generators.parameters() if p.grad is not None])


def _floats(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _copy(model: Model, dtype: torch.dtype, autocast: torch.dtype | None) -> Model:
    encoder, generators = deepcopy(model.eager_encoder).to(dtype), deepcopy(model.generators)
    assert generators is not None
    return replace(model, encoder=encoder, generators=generators.to(dtype), autocast=autocast)
