"""The meta gradient by its definition, as an oracle: back-propagation through the virtual step.

One graph goes through forward pass, backward pass and virtual step, nothing is computed twice, and nothing is clever.
It costs the memory of that graph, and serves one process.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from metaug_ray.method.model import Model
from metaug_ray.method.precision import autocast
from metaug_ray.method.targets.memory_bank import BankSample


class Gradients(NamedTuple):
    """What a fused step needs; without graph."""

    features: Tensor
    """z at theta, [V, B, D]."""
    theta: list[Tensor]
    """Gradient of the encoders' objective at theta, for each parameter."""
    omega: list[Tensor]
    """Gradient of the generators' objective at theta'(omega), for each parameter."""


def double_backward(
    model: Model, images: Sequence[Tensor], sample: BankSample, *, virtual_learning_rate: float
) -> Gradients:
    """Both gradients of a minibatch. Batch-norm statistics move with both forward passes."""
    assert model.generators is not None
    encoder = model.eager_encoder
    theta = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    omega = [parameter for parameter in model.generators.parameters() if parameter.requires_grad]

    def features_at(parameters: dict[str, Tensor]) -> Tensor:
        with autocast(images[0].device, model.autocast):
            features: Tensor = functional_call(encoder, parameters, (images,)).features
        return features

    features = features_at(dict(theta))
    loss = model.compare(features, sample).losses.total
    theta_gradient = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    virtual = {
        name: parameter - virtual_learning_rate * gradient
        for (name, parameter), gradient in zip(theta.items(), theta_gradient, strict=True)
    }
    comparison = model.compare(features_at(virtual), sample)
    objective = model.objective.generator_objective(*comparison, group=model.group)
    omega_gradient = torch.autograd.grad(objective, omega)
    return Gradients(features.detach(), [gradient.detach() for gradient in theta_gradient], list(omega_gradient))
