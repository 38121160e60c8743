"""Training steps of any kind and size, on any device, built as `metaug_ray.training.state` builds them.

That module reads pydantic's settings, which a bare GPU machine does not have.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor, nn

from metaug_ray.choices import MetaSchedule
from metaug_ray.encoder_table import EncoderName
from metaug_ray.method.algorithm import MetaStep, MetAug, Minibatch
from metaug_ray.method.compiled_tangents import CompiledTangents
from metaug_ray.method.contrast import unified_contrast
from metaug_ray.method.encoders import MultiViewEncoder
from metaug_ray.method.generators import Generators
from metaug_ray.method.model import Model
from metaug_ray.method.objective import Objective
from metaug_ray.method.targets.memory_bank import MemoryBank
from metaug_ray.method.views import split_views

VIEWS = ("rgb", "l", "ab")


@dataclass(frozen=True)
class Case:
    """One kind of training step; the defaults are the paper's, on ImageNet's images."""

    encoder: EncoderName = "resnet50"
    width: float = 1.0
    small_images: bool = False
    """Whether the stem is the one for small images."""
    size: int = 224
    """Side of an image, px."""
    batch: int = 128
    rows: int = 100_000
    """N of the memory bank."""
    negatives: int = 4096
    hidden: int = 2048
    """Hidden units of the generators; 0: there are none."""
    schedule: MetaSchedule = "fused"
    every: int = 1
    share: float = 1.0
    keep_activations: bool = False
    accumulation: int = 1
    bfloat16: bool = True
    delta: float = 1e-5
    alpha: float = 1e-13
    seed: int = 0

    def plain(self) -> "Case":
        """The same without generators."""
        return replace(self, hidden=0)


def make_model(
    case: Case,
    device: torch.device,
    wrap: Callable[[MultiViewEncoder], nn.Module] | None = None,
    backend: str | None = None,
) -> Model:
    """The networks in channels_last, as `compute.channels_last` has them by default.

    Args:
        case: what to build.
        device: where.
        wrap: makes of the encoder what is trained.
        backend: of `torch.compile`, for encoders and tangents as `compute.compile` has them; None: nothing is compiled.
    """
    torch.manual_seed(case.seed)
    with device:
        networks = MultiViewEncoder(VIEWS, case.encoder, width=case.width, small_images=case.small_images)
        generators = Generators(len(VIEWS), hidden_size=case.hidden) if case.hidden else None
    networks = networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    objective = Objective(partial(unified_contrast, beta=16.0, gamma=0.25), delta=case.delta, alpha=case.alpha)
    encoder = networks if wrap is None else wrap(networks)
    precision = torch.bfloat16 if case.bfloat16 else None
    if backend is None:
        return Model(encoder, generators, objective, precision)
    compiled: nn.Module = torch.compile(encoder, backend=backend)  # type: ignore[assignment]
    tangents = CompiledTangents(networks, precision, backend)
    return Model(compiled, generators, objective, precision, compiled_tangents=tangents)


def make_bank(case: Case, device: torch.device, dtype: torch.dtype = torch.float32) -> MemoryBank:
    return MemoryBank(case.rows, len(VIEWS), negatives=case.negatives, seed=case.seed, dtype=dtype, device=device)


def make_metaug(
    case: Case,
    device: torch.device,
    *,
    bank: MemoryBank | None = None,
    model: Model | None = None,
) -> MetAug:
    """Model and bank (or those that are given) and optimisers, ready to train."""
    model = make_model(case, device) if model is None else model
    networks = model.eager_encoder
    return MetAug(
        model,
        make_bank(case, device) if bank is None else bank,
        _optimizer(networks.encoders),
        None if model.generators is None else _optimizer(model.generators),
        MetaStep(case.schedule, every=case.every, share=case.share, keep_activations=case.keep_activations),
        head_optimizer=_optimizer(networks.heads),
        accumulation=case.accumulation,
    )


def make_images(case: Case, device: torch.device, count: int, seed: int = 0) -> Tensor:
    """Images of smooth coloured blobs, uint8 [count, 3, S, S] in channels_last, as the loader gives them."""
    random = torch.Generator(device).manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=random, device=device)
    smooth = nn.functional.interpolate(coarse, size=(case.size, case.size), mode="bicubic")
    smooth += 0.05 * torch.randn(smooth.shape, generator=random, device=device)
    return (smooth.clamp(0, 1) * 255).to(torch.uint8).contiguous(memory_format=torch.channels_last)


def make_minibatch(case: Case, device: torch.device, seed: int = 0) -> Minibatch:
    """Views of some images, and their indices on the CPU."""
    indices = torch.randperm(case.rows, generator=torch.Generator().manual_seed(seed))[: case.batch]
    return Minibatch(split_views(make_images(case, device, case.batch, seed), VIEWS), indices)


def _optimizer(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(module.parameters(), lr=0.03, momentum=0.9, weight_decay=1e-4, fused=True)
