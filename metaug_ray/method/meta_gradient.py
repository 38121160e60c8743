"""The meta gradient of the generators (Eq. 6), without a second-order graph through the encoder.

With L the encoders' objective and L_G the generators' (:class:`~metaug_ray.method.objective.Objective`), theta' = theta
- l g, g = grad_theta L(theta, omega), and v = grad_theta' L_G(theta', omega),

    d/domega L_G(theta'(omega), omega)
        = (partial/partial omega) L_G(theta', omega) - l (partial/partial omega) <grad_e L(e, omega), edot>,

where e are the features at theta and edot = J_theta e . v is their change along v. The second part is differentiated
twice in feature space only; the encoder sees plain forward and backward passes, and one pass of forward-mode
differentiation for edot. So memory stays at a plain step's and a few copies of the parameters, and DDP, channels_last
and autocast keep working.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.func import functional_call

from metaug_ray.method import distributed
from metaug_ray.method.buffers import SavedBuffers
from metaug_ray.method.encoders import MultiViewOutput
from metaug_ray.method.model import Comparison, Model
from metaug_ray.method.precision import autocast
from metaug_ray.method.tangents import FusedTangents
from metaug_ray.method.targets.targets import Keys, Sample


class ModelGradient(NamedTuple):
    """What the pass for the encoders' gradient saw, without graph."""

    output: MultiViewOutput
    """Of this rank's part."""
    keys: Keys
    """What its anchors were compared with."""
    comparison: Comparison
    """Losses and similarities of this rank's part."""


def meta_gradient(
    model: Model,
    images: Sequence[Tensor],
    sample: Sample,
    *,
    virtual_learning_rate: float,
    features: Tensor | None = None,
    accumulation: int = 1,
) -> None:
    """Write the gradient of Eq. 6, averaged over the ranks, to the `.grad` of the generators' parameters.

    What the anchors are compared with is held fixed: neighbours are those at theta. Parameters, gradients and buffers
    of the encoder and buffers of the generators are afterwards what they were, bit for bit. A collective call.

    Args:
        model: a model with generators.
        images: one tensor [B, C_v, H, W] per view.
        sample: of their targets; with `features`, the keys that these were compared with.
        virtual_learning_rate: l of the virtual step theta' (Eq. 3).
        features: e of these images at theta, [V, B, D], if the encoder's `.grad` holds g of this very minibatch, which
            spares a forward and a backward pass (`fused`); None to have both made here (`separate`).
        accumulation: parts that the minibatch is taken through the encoder in. The gradient is the same, but that batch
            norm sees a part, and with divisible targets the margins of R_sigma do too.

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
            output, keys, _ = model_gradient(model, images, sample, list(theta.values()), accumulation)
            features = output.features
        else:
            keys = sample.keys(features)
        _place(theta, start, _gradients(theta), -virtual_learning_rate)
        v = _gradient_of_generator_objective(model, images, keys, theta, omega, accumulation)
        _place(theta, start)
        second_order = _second_order(model, images, keys, features, v, omega, accumulation)
        gradients = [
            parameter.grad - virtual_learning_rate * second
            for parameter, second in zip(omega, second_order, strict=True)
            if parameter.grad is not None
        ]
    distributed.average(gradients, model.group)
    for parameter, gradient in zip(omega, gradients, strict=True):
        parameter.grad = gradient


def model_gradient(
    model: Model, images: Sequence[Tensor], sample: Sample, theta: list[nn.Parameter], accumulation: int = 1
) -> ModelGradient:
    """Write grad_theta L_MetAug to `.grad`, averaged over the ranks by DDP; omega is held constant. A collective call.

    Args:
        model: the networks.
        images: one tensor [B, C_v, H, W] per view.
        sample: of their targets.
        theta: parameters of the encoder.
        accumulation: parts that the minibatch is taken through the encoder in.
    """
    model.encoder.zero_grad()
    return _backward(model, images, sample, lambda comparison: comparison.losses.total, theta, [], accumulation)


def _gradient_of_generator_objective(
    model: Model,
    images: Sequence[Tensor],
    keys: Keys,
    theta: dict[str, nn.Parameter],
    omega: list[nn.Parameter],
    accumulation: int,
) -> dict[str, Tensor]:
    """Gradient of L_G in theta, averaged over the ranks; that in omega, of this rank's part, is left in its `.grad`."""
    model.encoder.zero_grad()

    def objective(comparison: Comparison) -> Tensor:
        return model.objective.generator_objective(*comparison, group=model.group)

    _backward(model, images, keys, objective, list(theta.values()), omega, accumulation)
    return _gradients(theta)


def _backward(
    model: Model,
    images: Sequence[Tensor],
    sample: Sample,
    objective: Callable[[Comparison], Tensor],
    theta: list[nn.Parameter],
    omega: list[nn.Parameter],
    accumulation: int,
) -> ModelGradient:
    """Forward and backward pass of a minibatch: adds the objective's gradient to the `.grad` of theta and omega."""
    parts = parts_of(images, accumulation)
    if accumulation > 1 and not sample.divisible:
        return _backward_from_features(model, parts, sample, objective, theta, omega)
    outputs, comparisons = [], []
    for number, part in enumerate(parts):
        with model.local_unless(number == accumulation - 1):
            output = model.encode(part)
            keys = sample.keys(output.projections)
            seen = keys.part(number, accumulation)
            comparison = model.compare(output.features, seen)
            with autocast(output.features.device, None):
                torch.autograd.backward(objective(comparison) / accumulation, inputs=[*theta, *omega])
        outputs.append(output.detach())
        comparisons.append(comparison.detach())
    return ModelGradient(MultiViewOutput.join(outputs), keys, Comparison.join(comparisons))


def _backward_from_features(
    model: Model,
    parts: list[list[Tensor]],
    sample: Sample,
    objective: Callable[[Comparison], Tensor],
    theta: list[nn.Parameter],
    omega: list[nn.Parameter],
) -> ModelGradient:
    """The same where each anchor is compared with the whole global batch: first its features, without a graph of the
    encoder; then the gradient in them; then each part again, whose backward pass begins with that (Gao et al. 2021,
    GradCache). One forward pass more."""
    with torch.no_grad():
        output = MultiViewOutput.join([model.encode(part) for part in parts])
    features = output.features.requires_grad_()
    keys = sample.keys(output.projections)
    comparison = model.compare(features, keys)
    torch.autograd.backward(objective(comparison), inputs=[features, *omega])
    assert features.grad is not None
    statistics = SavedBuffers(model.eager_encoder)
    for number, (part, gradient) in enumerate(zip(parts, features.grad.chunk(len(parts), 1), strict=True)):
        with model.local_unless(number == len(parts) - 1):
            again = model.encode(part).features
            torch.autograd.backward(again, gradient, inputs=theta)
    # The images have moved them once already.
    statistics.restore()
    return ModelGradient(output.detach(), keys, comparison.detach())


def _second_order(
    model: Model,
    images: Sequence[Tensor],
    keys: Keys,
    features: Tensor,
    v: dict[str, Tensor],
    omega: list[nn.Parameter],
    accumulation: int,
) -> list[Tensor]:
    """(partial/partial omega) <grad_e L(e, omega), edot> of this rank's part, at e = `features` [V, B, D]."""
    total = [torch.zeros_like(parameter) for parameter in omega]
    tangents = torch.cat([_forward_mode(model, part, v) for part in parts_of(images, accumulation)], 1)
    pieces = accumulation if keys.divisible else 1
    both = zip(features.detach().chunk(pieces, 1), tangents.chunk(pieces, 1), strict=True)
    for number, (e, edot) in enumerate(both):
        loss = model.compare(e.requires_grad_(), keys.part(number, pieces)).losses.total / pieces
        (gradient,) = torch.autograd.grad(loss, e, create_graph=True)
        torch._foreach_add_(total, torch.autograd.grad((gradient * edot).sum(), omega))
    return total


def parts_of(images: Sequence[Tensor], count: int) -> list[list[Tensor]]:
    """A minibatch in parts: one tensor [B / count, C_v, H, W] per view for each."""
    return [list(part) for part in zip(*(view.chunk(count) for view in images), strict=True)]


def _forward_mode(model: Model, images: Sequence[Tensor], direction: dict[str, Tensor]) -> Tensor:
    """The tangent edot = J_theta e . direction, [V, B, D], in one pass of dual numbers, without a graph."""
    encoder, precision = model.eager_encoder, autocast(images[0].device, model.autocast)
    with torch.no_grad(), forward_ad.dual_level(), FusedTangents(), torch.compiler.set_stance("force_eager"), precision:
        duals = {
            name: forward_ad.make_dual(encoder.get_parameter(name).detach(), tangent)
            for name, tangent in direction.items()
        }
        edot: Tensor = forward_ad.unpack_dual(functional_call(encoder, duals, (images,)).features).tangent
    return edot


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
