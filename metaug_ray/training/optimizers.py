"""Optimisers from settings."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from metaug_ray.config.training import OptimizerSettings


def make_optimizer(modules: Iterable[nn.Module], settings: OptimizerSettings) -> Optimizer:
    """An optimiser over all parameters of the modules: SGD with momentum, AdamW, or LARS (You et al. 2017).

    Vectors (batch norm and biases) form a group of their own, without decay if the settings say so, and for LARS
    always, which then does not scale them either.
    """
    parameters = [parameter for module in modules for parameter in module.parameters()]
    vectors = [parameter for parameter in parameters if parameter.ndim < 2]
    plain = settings.kind == "lars" or not settings.decay_norm_and_bias
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in parameters if parameter.ndim >= 2]},
        {"params": vectors, "weight_decay": 0.0 if plain else settings.weight_decay},
    ]
    rate, decay = settings.learning_rate, settings.weight_decay
    common: dict[str, Any] = {"lr": rate, "weight_decay": decay, "maximize": settings.maximize, "fused": True}
    match settings.kind:
        case "sgd":
            return torch.optim.SGD(groups, momentum=settings.momentum, **common)
        case "adam":
            return torch.optim.AdamW(groups, **common)
        case "lars":
            # Imports all of timm's models: seconds that the others need not wait for.
            from timm.optim.lars import Lars

            # Of itself it would not scale what is not decayed, matrices neither.
            groups[0]["always_adapt"] = True
            lars: Optimizer = Lars(groups, lr=rate, momentum=settings.momentum, weight_decay=decay)
            return lars
