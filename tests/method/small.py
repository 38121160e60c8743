"""A small model, bank and batch that the tests of the method share."""

from functools import partial

import torch
from torch import Tensor, nn

from metaug_ray.choices import COLOR_CHANNELS, NegativeSampling
from metaug_ray.encoder_table import EncoderName
from metaug_ray.method.contrast import unified_contrast
from metaug_ray.method.encoders import MultiViewEncoder
from metaug_ray.method.generators import Generators
from metaug_ray.method.model import Model
from metaug_ray.method.objective import Objective
from metaug_ray.method.targets.memory_bank import MemoryBank

VIEWS = ("l", "ab")
IMAGES = 203  # of the data set: divides by neither 2 nor 4


def make_model(
    encoder: EncoderName = "conv",
    dtype: torch.dtype = torch.float64,
    *,
    generators: bool = True,
    delta: float = 0.1,
    alpha: float = 0.1,
    autocast: torch.dtype | None = None,
) -> Model:
    torch.manual_seed(0)
    networks = MultiViewEncoder(VIEWS, encoder, small_images=True, width=0.5, feature_size=32).to(dtype)
    mags = Generators(len(VIEWS), feature_size=32, hidden_size=64).to(dtype) if generators else None
    objective = Objective(partial(unified_contrast, beta=16.0, gamma=0.25), delta=delta, alpha=alpha)
    return Model(networks, mags, objective, autocast)


def make_bank(dtype: torch.dtype = torch.float64, sampling: NegativeSampling = "shared", seed: int = 5) -> MemoryBank:
    return MemoryBank(IMAGES, len(VIEWS), 32, negatives=40, sampling=sampling, dtype=dtype, seed=seed)


def make_images(batch: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> list[Tensor]:
    """One tensor [batch, C_v, 32, 32] per view."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(batch, COLOR_CHANNELS[view], 32, 32, generator=generator, dtype=torch.float64) * 2 - 1).to(dtype)
        for view in VIEWS
    ]


def freeze_batch_norm(module: nn.Module) -> None:
    """Fix the statistics of every batch norm to arbitrary ones."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.eval()
            assert norm.running_mean is not None
            assert norm.running_var is not None
            generator = torch.Generator().manual_seed(norm.num_features)
            norm.running_mean.copy_(torch.randn(norm.num_features, generator=generator) * 0.1)
            norm.running_var.copy_(torch.rand(norm.num_features, generator=generator) + 0.5)
