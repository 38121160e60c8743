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
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaug_ray.method import distributed
from metaug_ray.method.buffers import fixed_buffers
from metaug_ray.method.encoders import MultiViewOutput
from metaug_ray.method.generators import Generators
from metaug_ray.method.linearization import WHOLE, Linearization, Part
from metaug_ray.method.model import Comparison, Model
from metaug_ray.method.precision import autocast
from metaug_ray.method.tangents import forward_mode
from metaug_ray.method.targets.targets import Keys, Sample


class StepTaken(NamedTuple):
    """What a step of the encoders was made with, without graph."""

    images: Sequence[Tensor]
    """One tensor [B, C_v, H, W] per view."""
    keys: Keys
    """What its anchors were compared with."""
    features: Tensor
    """e at theta, [V, B, D]."""
    theta: dict[str, Tensor]
    """Parameters of the encoder before it."""
    linearization: Linearization | None = None
    """Of the encoder there, of the images whose tangents are made; None: their activations are computed again."""


class Rates(NamedTuple):
    """l of each parameter of the encoder that is trained."""

    greatest: Tensor
    """A scalar."""
    others: dict[str, float]
    """Of those that are not moved by that, what they are moved by, relative to it, by name."""


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
    part: Part = WHOLE,
    linearization: Linearization | None = None,
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
        part: images that edot is made for, while v is made of all: over the parts the mean is the whole gradient, but
            that batch norm of the encoder sees a part.
        linearization: of this part, recorded with `features`, or to be recorded here; None to compute the activations
            again for the tangents.

    Raises:
        ValueError: the model has no generators.
    """
    encoder, generators = model.eager_encoder, _generators(model)
    theta, omega = trained(encoder), trained(generators)
    generators.zero_grad()
    # Backward passes, too, would take up an autocast context that the caller has open.
    with _restored(model) as start, autocast(images[0].device, None):
        if features is None:
            output, keys, _ = model_gradient(model, images, sample, accumulation, linearization=linearization)
            features = output.features
        else:
            keys = sample.keys(features)
        _place(theta, start, _gradients(theta), -virtual_learning_rate)
        v = _virtual_gradient(model, images, keys, accumulation)
        _place(theta, start)
        step = StepTaken(images, keys, features, {name: start[name] for name in theta}, linearization)
        second_order = _second_order(model, step, v, accumulation, part)
    gradients = list(_gradients(omega).values())
    torch._foreach_add_(gradients, second_order, alpha=-virtual_learning_rate)
    _write_average(model, omega, gradients)


def lookahead_gradient(model: Model, step: StepTaken, rates: Rates, accumulation: int = 1, part: Part = WHOLE) -> None:
    """Write the same gradient for a step theta' that encoders took for good: the one before, whose successor's gradient
    is v. R_sigma, which v lacks, has its part in omega alone.

    It is exact where theta' = theta - l g(theta, omega) with the omega of now: encoders moved by SGD without clipping,
    and generators that did not move since. A collective call.

    Args:
        model: a model with generators, at theta', whose `.grad` is what :func:`model_gradient` wrote for the next
            minibatch, the generators' too.
        step: the step from theta to theta'.
        rates: of that step.
        accumulation: as for :func:`meta_gradient`.
        part: likewise, of the images of `step`.
    """
    omega = trained(_generators(model))
    v = _gradients(trained(model.eager_encoder))
    # What all have in common scales the result: it has fewer numbers, and takes no copy of these.
    v |= {name: v[name] * rate for name, rate in rates.others.items()}
    with fixed_buffers(model.eager_encoder, model.generators), autocast(step.features.device, None):
        second_order = _second_order(model, step, v, accumulation, part)
    torch._foreach_mul_(second_order, rates.greatest.to(second_order[0].dtype))
    gradients = list(_gradients(omega).values())
    torch._foreach_sub_(gradients, second_order)
    _write_average(model, omega, gradients)


def model_gradient(
    model: Model,
    images: Sequence[Tensor],
    sample: Sample,
    accumulation: int = 1,
    *,
    generators: bool = False,
    linearization: Linearization | None = None,
) -> ModelGradient:
    """Write grad_theta L_MetAug to `.grad`, averaged over the ranks by DDP; omega is held constant. A collective call.

    Args:
        model: the networks.
        images: one tensor [B, C_v, H, W] per view.
        sample: of their targets.
        accumulation: parts that the minibatch is taken through the encoder in.
        generators: whether grad_omega L_G at fixed theta is written too, of this rank's part alone.
        linearization: which is to be recorded, of a minibatch in one part.
    """
    model.encoder.zero_grad()
    descents = [_Descent(_total, list(trained(model.eager_encoder).values()), [])]
    if generators:
        module = _generators(model)
        module.zero_grad()
        descents.insert(0, _Descent(partial(_generator_objective, model), [], list(trained(module).values())))
    return _backward(model, images, sample, descents, accumulation, linearization)


def _virtual_gradient(model: Model, images: Sequence[Tensor], keys: Keys, accumulation: int) -> dict[str, Tensor]:
    """Gradient of L_G in theta, averaged over the ranks; that in omega, of this rank's part, is left in its `.grad`."""
    model.encoder.zero_grad()
    theta, omega = trained(model.eager_encoder), trained(_generators(model))
    descent = _Descent(partial(_generator_objective, model), list(theta.values()), list(omega.values()))
    _backward(model, images, keys, [descent], accumulation)
    return _gradients(theta)


class _Descent(NamedTuple):
    """An objective, and the parameters whose `.grad` its gradient is added to."""

    objective: Callable[[Comparison], Tensor]
    theta: list[nn.Parameter]
    omega: list[nn.Parameter]


def _total(comparison: Comparison) -> Tensor:
    return comparison.losses.total


def _generator_objective(model: Model, comparison: Comparison) -> Tensor:
    return model.objective.generator_objective(*comparison, group=model.group)


def _backward(
    model: Model,
    images: Sequence[Tensor],
    sample: Sample,
    descents: list[_Descent],
    accumulation: int,
    linearization: Linearization | None = None,
) -> ModelGradient:
    """Forward and backward passes of a minibatch; the last descent is one of theta."""
    parts = parts_of(images, accumulation)
    if accumulation > 1 and not sample.divisible:
        return _backward_from_features(model, parts, sample, descents)
    outputs, comparisons = [], []
    for number, part in enumerate(parts):
        with model.local_unless(number == accumulation - 1):
            with nullcontext() if linearization is None else linearization.recording(part):
                output = model.encode(part)
            keys = sample.keys(output.projections)
            seen = keys.part(number, accumulation)
            comparison = model.compare(output.features, seen)
            with autocast(output.features.device, None):
                for each in descents:
                    torch.autograd.backward(
                        each.objective(comparison) / accumulation,
                        inputs=[*each.theta, *each.omega],
                        retain_graph=each is not descents[-1],
                    )
        outputs.append(output.detach())
        comparisons.append(comparison.detach())
    return ModelGradient(MultiViewOutput.join(outputs), keys, Comparison.join(comparisons))


def _backward_from_features(
    model: Model, parts: list[list[Tensor]], sample: Sample, descents: list[_Descent]
) -> ModelGradient:
    """The same where each anchor is compared with the whole global batch: first its features, without a graph of the
    encoder; then the gradient in them; then each part again, whose backward pass begins with that (Gao et al. 2021,
    GradCache). One forward pass more."""
    with torch.no_grad():
        output = MultiViewOutput.join([model.encode(part) for part in parts])
    features = output.features.requires_grad_()
    keys = sample.keys(output.projections)
    comparison = model.compare(features, keys)
    for each in descents:
        torch.autograd.backward(
            each.objective(comparison),
            inputs=[*([features] if each.theta else []), *each.omega],
            retain_graph=each is not descents[-1],
        )
    assert features.grad is not None
    # The images have moved them once already.
    with fixed_buffers(model.eager_encoder):
        for number, (part, gradient) in enumerate(zip(parts, features.grad.chunk(len(parts), 1), strict=True)):
            with model.local_unless(number == len(parts) - 1):
                again = model.encode(part).features
                torch.autograd.backward(again, gradient, inputs=descents[-1].theta)
    return ModelGradient(output.detach(), keys, comparison.detach())


def _second_order(model: Model, step: StepTaken, v: dict[str, Tensor], accumulation: int, part: Part) -> list[Tensor]:
    """(partial/partial omega) <grad_e L(e, omega), edot> of this rank's part, at the features e of the step."""
    total: list[Tensor] = []
    tangents = _tangents(model, step, v, accumulation, part)
    pieces = accumulation if step.keys.divisible else 1
    both = zip(step.features.detach().chunk(pieces, 1), tangents.chunk(pieces, 1), strict=True)
    for number, (e, edot) in enumerate(both):
        loss = model.compare(e.requires_grad_(), step.keys.part(number, pieces)).losses.total / pieces
        (gradient,) = torch.autograd.grad(loss, e, create_graph=True)
        made = torch.autograd.grad((gradient * edot).sum(), list(trained(_generators(model)).values()))
        if total:
            torch._foreach_add_(total, made)
        else:
            total = list(made)
    return total


def _tangents(model: Model, step: StepTaken, v: dict[str, Tensor], accumulation: int, part: Part) -> Tensor:
    """Tangents [V, B, D]: of the part's images as many times as there are parts, and 0 of all others; so the mean over
    the parts is that of all images."""
    if step.linearization is not None:
        tangents = step.linearization.tangent(step.theta, v)
    else:
        images = parts_of(step.images, part.of)[part.number]
        made = [_forward_mode(model, each, step.theta, v) for each in parts_of(images, -(-accumulation // part.of))]
        tangents = torch.cat(made, 1)
    if part.of == 1:
        return tangents
    size = tangents.shape[1]
    after = step.features.shape[1] - (part.number + 1) * size
    return F.pad(part.of * tangents, (0, 0, part.number * size, after))


def linearize(model: Model, step: StepTaken, linearization: Linearization) -> StepTaken:
    """A step whose forward pass is made and recorded again, at its parameters; the encoder is left as it is."""
    encoder = model.eager_encoder
    theta = trained(encoder)
    now = {name: parameter.detach().clone() for name, parameter in theta.items()}
    precision = autocast(step.features.device, model.autocast)
    _place(theta, step.theta)
    try:
        # With a graph, as then: batch norm tells its statistics there.
        with torch.enable_grad(), fixed_buffers(encoder), precision, linearization.recording(step.images):
            encoder(step.images)
    finally:
        _place(theta, now)
    return step._replace(linearization=linearization)


def parts_of(images: Sequence[Tensor], count: int) -> list[list[Tensor]]:
    """A minibatch in parts: one tensor [B / count, C_v, H, W] per view for each."""
    return [list(part) for part in zip(*(view.chunk(count) for view in images), strict=True)]


def _forward_mode(
    model: Model, images: Sequence[Tensor], theta: dict[str, Tensor], direction: dict[str, Tensor]
) -> Tensor:
    """The tangent J_theta e . direction, [V, B, D], in the model's precision, compiled if it is."""
    if model.compiled_tangents is not None:
        return model.compiled_tangents(images, theta, direction)
    with autocast(images[0].device, model.autocast):
        return forward_mode(model.eager_encoder, images, theta, direction)


def _generators(model: Model) -> Generators:
    if model.generators is None:
        raise ValueError("the meta gradient is that of generators, and this model has none: build it with Generators")
    return model.generators


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that take a gradient, by name."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _gradients(parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in parameters.items()}


def _write_average(model: Model, omega: dict[str, nn.Parameter], gradients: Sequence[Tensor]) -> None:
    distributed.average(gradients, model.group)
    for parameter, gradient in zip(omega.values(), gradients, strict=True):
        parameter.grad = gradient


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
def _restored(model: Model) -> Iterator[dict[str, Tensor]]:
    """Give the values of the encoder's parameters; put back them and their gradients in the end. The encoder's and the
    generators' buffers do not move meanwhile."""
    parameters = dict(model.eager_encoder.named_parameters())
    start = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    # DDP's gradients are its buckets, which the next pass writes to.
    shared = model.distributed_encoder is not None
    gradients = {name: p.grad.clone() if shared and p.grad is not None else p.grad for name, p in parameters.items()}
    with fixed_buffers(model.eager_encoder, model.generators):
        try:
            yield start
        finally:
            _place(parameters, start)
            for name, parameter in parameters.items():
                parameter.grad = gradients[name]
