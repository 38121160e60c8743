"""A small model of two crops and one encoder, and its targets, that the tests of MetAug* share."""

from functools import partial

import torch
from torch import Tensor

from metaug_ray.choices import TargetKind
from metaug_ray.method.batch_norm import synchronize_batch_norm
from metaug_ray.method.contrast import unified_contrast
from metaug_ray.method.encoders import MultiViewEncoder
from metaug_ray.method.generators import Generators
from metaug_ray.method.model import Model
from metaug_ray.method.objective import Objective
from metaug_ray.method.targets import BatchTargets, NeighbourTargets, Targets
from metaug_ray.method.targets.support_set import SupportSet

SIZE = 16


def make_star(targets: TargetKind, *, synchronized: bool = False, delta: float = 0.1) -> tuple[Model, Targets]:
    """In float64, from one seed. Batch norm is in the encoder, in both heads and in the generator."""
    torch.manual_seed(0)
    predictor = 24 if targets == "neighbours" else None
    head = {"layers": 2, "hidden_size": 24, "output_norm": True, "prediction_hidden_size": predictor}
    encoder = MultiViewEncoder(("rgb", "rgb.2"), "conv", small_images=True, width=0.5, feature_size=SIZE, head=head)
    generators = Generators((0, 0), SIZE, 24)
    for module in (encoder.double(), generators.double()):
        if synchronized:
            synchronize_batch_norm(module)
    objective = Objective(partial(unified_contrast, beta=16.0, gamma=0.25), delta=delta, alpha=0.1)
    return Model(encoder, generators, objective), make_targets(targets)


def make_targets(targets: TargetKind) -> Targets:
    """A support set of 12 rows: batches of 8 go around it."""
    if targets == "batch":
        return BatchTargets(2, SIZE)
    return NeighbourTargets((0, 0), SupportSet(12, 1, SIZE, seed=3, dtype=torch.float64), SIZE)


def make_crops(batch: int, seed: int = 1) -> list[Tensor]:
    """Two crops [batch, 3, 32, 32]."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(batch, 3, 32, 32, generator=generator, dtype=torch.float64) * 2 - 1 for _ in range(2)]
