"""The meta gradient of the generators (Eq. 6), without a second-order graph through the encoder.

With L the encoders' objective and L_G the generators' (:class:`~metaug_ray.method.objective.Objective`), theta' = theta
- l g, g = grad_theta L(theta, omega), and v = grad_theta' L_G(theta', omega),

    d/domega L_G(theta'(omega), omega)
        = (partial/partial omega) L_G(theta', omega) - l (partial/partial omega) <grad_z L(z, omega), zdot>,

where z are the features at theta and zdot = J_theta z . v is their change along v. The second part is differentiated
twice in feature space only; the encoder sees plain forward and backward passes, and one pass of forward-mode
differentiation for zdot. So memory stays at a plain step's and a few copies of the parameters, and DDP, channels_last
and autocast keep working.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.func import functional_call

from metaug_ray.method import distributed
from metaug_ray.method.buffers import SavedBuffers
from metaug_ray.method.memory_bank import BankSample
from metaug_ray.method.model import Comparison, Model
from metaug_ray.method.precision import autocast
from metaug_ray.method.tangents import FusedTangents


def meta_gradient(
    model: Model,
    images: Sequence[Tensor],
    sample: BankSample,
    *,
    virtual_learning_rate: float,
    features: Tensor | None = None,
    accumulation: int = 1,
) -> None:
    """Write the gradient of Eq. 6, averaged over the ranks, to the `.grad` of the generators' parameters.

    Parameters, gradients and buffers of the encoder and buffers of the generators are afterwards what they were, bit
    for bit. A collective call.

    Args:
        model: a model with generators.
        images: one tensor [B, C_v, H, W] per view.
        sample: their bank rows.
        virtual_learning_rate: l of the virtual step theta' (Eq. 3).
        features: z of these images at theta, [V, B, D], if the encoder's `.grad` holds g of this very minibatch, which
            spares a forward and a backward pass (`fused`); None to have both made here (`separate`).
        accumulation: parts that the minibatch is taken through the encoder in. The gradient is the same, but that batch
            norm and the margins of R_sigma see a part.

    Raises:
        ValueError: the model has no generators.
    """
    if model.generators is None:
        raise ValueError("the meta gradient is that of generators, and this model has none: build it with Generators")
    encoder, generators = model.eager_encoder, model.generators
    theta = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    omega = [parameter for parameter in generators.parameters() if parameter.requires_grad]
    generators.zero_grad()
    # Backward passes, too, would take up an autocast context that the caller has open.
    with _restored(encoder, generators) as start, autocast(images[0].device, None):
        if features is None:
            features = model_gradient(model, images, sample, list(theta.values()), accumulation)[0]
        _place(theta, start, _gradients(theta), -virtual_learning_rate)
        v = _gradient_of_generator_objective(model, images, sample, theta, omega, accumulation)
        _place(theta, start)
        second_order = _second_order(model, images, sample, features, v, omega, accumulation)
        gradients = [
            parameter.grad - virtual_learning_rate * second
            for parameter, second in zip(omega, second_order, strict=True)
            if parameter.grad is not None
        ]
    distributed.average(gradients, model.group)
    for parameter, gradient in zip(omega, gradients, strict=True):
        parameter.grad = gradient


def model_gradient(
    model: Model, images: Sequence[Tensor], sample: BankSample, theta: list[nn.Parameter], accumulation: int = 1
) -> tuple[Tensor, Comparison]:
    """Write grad_theta L_MetAug to `.grad`, averaged over the ranks by DDP; omega is held constant.

    Args:
        model: the networks.
        images: one tensor [B, C_v, H, W] per view.
        sample: their bank rows.
        theta: parameters of the encoder.
        accumulation: parts that the minibatch is taken through the encoder in.

    Returns:
        Features z [V, B, D], and losses and similarities of this rank's part, all without graph.
    """
    model.encoder.zero_grad()
    features, comparisons = [], []
    for part, seen, local in model.parts(images, sample, accumulation):
        with local:
            z = model.encode(part)
            comparison = model.compare(z, seen)
            with autocast(z.device, None):
                torch.autograd.backward(comparison.losses.total / accumulation, inputs=theta)
        features.append(z.detach())
        comparisons.append(comparison.detach())
    return torch.cat(features, 1), Comparison.join(comparisons)


def _gradient_of_generator_objective(
    model: Model,
    images: Sequence[Tensor],
    sample: BankSample,
    theta: dict[str, nn.Parameter],
    omega: list[nn.Parameter],
    accumulation: int,
) -> dict[str, Tensor]:
    """Gradient of L_G in theta, averaged over the ranks; that in omega, of this rank's part, is left in its `.grad`."""
    model.encoder.zero_grad()
    for part, seen, local in model.parts(images, sample, accumulation):
        with local:
            comparison = model.compare(model.encode(part), seen)
            objective = model.objective.generator_objective(*comparison, group=model.group)
            torch.autograd.backward(objective / accumulation, inputs=[*theta.values(), *omega])
    return _gradients(theta)


def _second_order(
    model: Model,
    images: Sequence[Tensor],
    sample: BankSample,
    features: Tensor,
    v: dict[str, Tensor],
    omega: list[nn.Parameter],
    accumulation: int,
) -> list[Tensor]:
    """(partial/partial omega) <grad_z L(z, omega), zdot> of this rank's part, at z = `features` [V, B, D]."""
    total = [torch.zeros_like(parameter) for parameter in omega]
    at_theta = features.detach().chunk(accumulation, 1)
    for (part, seen, _), z in zip(model.parts(images, sample, accumulation), at_theta, strict=True):
        zdot = _forward_mode(model, part, v)
        loss = model.compare(z.requires_grad_(), seen).losses.total / accumulation
        (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
        torch._foreach_add_(total, torch.autograd.grad((gradient * zdot).sum(), omega))
    return total


def _forward_mode(model: Model, images: Sequence[Tensor], direction: dict[str, Tensor]) -> Tensor:
    """The tangent zdot = J_theta z . direction, [V, B, D], in one pass of dual numbers, without a graph."""
    encoder, precision = model.eager_encoder, autocast(images[0].device, model.autocast)
    with torch.no_grad(), forward_ad.dual_level(), FusedTangents(), torch.compiler.set_stance("force_eager"), precision:
        duals = {
            name: forward_ad.make_dual(encoder.get_parameter(name).detach(), tangent)
            for name, tangent in direction.items()
        }
        zdot: Tensor = forward_ad.unpack_dual(functional_call(encoder, duals, (images,)).features).tangent
    return zdot


def _gradients(theta: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in theta.items()}


def _place(
    theta: dict[str, nn.Parameter],
    start: dict[str, Tensor],
    direction: dict[str, Tensor] | None = None,
    length: float = 0.0,
) -> None:
    """Set theta to start + length * direction."""
    parameters: list[Tensor] = list(theta.values())
    with torch.no_grad():
        torch._foreach_copy_(parameters, [start[name] for name in theta])
        if direction is not None:
            torch._foreach_add_(parameters, list(direction.values()), alpha=length)
    # An open autocast context would go on with the casts that it made of the old values.
    torch.clear_autocast_cache()


@contextmanager
def _restored(encoder: nn.Module, generators: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Give the values of the encoder's parameters; put back them, their gradients and both modules' buffers in the
    end."""
    parameters = dict(encoder.named_parameters())
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in parameters.items()}
    buffers = SavedBuffers(encoder, generators)
    try:
        yield start
    finally:
        _place(parameters, start)
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        buffers.restore()
