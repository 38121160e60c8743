"""Sizes of what a run is made of, counted on networks without memory."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.config.training import OptimizerSettings
from metaug_ray.runtime.networks import build_networks
from metaug_ray.training.capacity import bank_bytes


@dataclass(frozen=True)
class Sizes:
    """Bytes by what they are of.

    Attributes:
        encoder: parameters of encoders and heads, which DDP reduces.
        generator: parameters of the generators; 0 without.
        replicated: all that each worker has of its own in a checkpoint: parameters, statistics, optimisers; and, with
            lookahead, what it keeps of a step.
        row: of the bank: one image in all its slots; 0 without a bank.
        feature: the same as it is computed, before it is stored in bank or support set: float32.
        compared: one image's features in all views, float32, which targets of the whole batch send.
    """

    encoder: int
    generator: int
    replicated: int
    row: int
    feature: int
    compared: int = 0

    def checkpoint(self, samples: int) -> int:
        """Bytes of a whole checkpoint with the rows of so many images."""
        return self.replicated + samples * self.row


def sizes_of(settings: PretrainSettings) -> Sizes:
    """Sizes for a run's settings."""
    with torch.device("meta"):
        networks, generators = build_networks(settings)
    training = settings.training
    parts: list[tuple[nn.Module, OptimizerSettings]] = [
        (networks.encoders, training.encoder),
        (networks.heads, training.head),
    ]
    if generators is not None:
        parts.append((generators, training.generator))
    replicated = 0
    for module, optimizer in parts:
        parameters, buffers = list(module.parameters()), list(module.buffers())
        replicated += (1 + optimizer.states) * _bytes(parameters) + _bytes(buffers)
    banked = settings.method.targets == "bank"
    if not banked:  # the support set, with the place of its oldest row
        replicated += bank_bytes(settings, 1, 1)
    number = settings.model.feature_size * torch.float32.itemsize
    if settings.method.generators and settings.method.meta.schedule == "lookahead":
        # Parameters of the step before, their rates, and features and rows of its images.
        views, rows = len(settings.model.views), {"bank": len(settings.model.encoders), "batch": 0}
        kept = views + rows.get(settings.method.targets, views)
        parameters = list(networks.parameters())
        replicated += _bytes(parameters) + 8 * len(parameters) + kept * settings.training.batch_size * number
    return Sizes(
        encoder=_bytes(list(networks.parameters())),
        generator=0 if generators is None else _bytes(list(generators.parameters())),
        replicated=replicated,
        row=bank_bytes(settings, 1, 1) if banked else 0,
        feature=len(settings.model.encoders) * number,
        compared=len(settings.model.views) * number,
    )


def _bytes(tensors: list[Tensor] | list[nn.Parameter]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
