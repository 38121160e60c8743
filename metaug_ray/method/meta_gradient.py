"""The meta gradient of the generators (Eq. 6), without a second-order graph through the encoder.

With theta' = theta - l g, g = grad_theta L(theta, omega), and v = grad_theta' [L + alpha R](theta', omega),

    d/domega [L + alpha R](theta'(omega), omega)
        = (partial/partial omega)[L + alpha R](theta', omega) - l (partial/partial omega) <grad_z L(z, omega), zdot>,

where z are the features at theta and zdot = J_theta z . v is their change along v. The second part is differentiated
twice in feature space only; the encoder sees plain forward and backward passes, and one pass for zdot. So memory stays
at a plain step's and a few copies of the parameters, and DDP, channels_last and autocast keep working.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch.func import functional_call

from metaug_ray.method import distributed
from metaug_ray.method.choices import check_choice
from metaug_ray.method.memory_bank import BankSample
from metaug_ray.method.model import Comparison, Model
from metaug_ray.method.similarities import pair_similarities

MetaMode = Literal["jvp", "difference", "double_backward"]
"""How the second-order part is made.

`jvp`: zdot by forward-mode differentiation, exact in every precision.
`difference`: zdot as a central difference of two forward passes; cheaper, not quite exact.
`double_backward`: back-propagation through the virtual step: the reference, for one process and small models.
"""


def meta_gradient(
    model: Model,
    images: Sequence[Tensor],
    sample: BankSample,
    *,
    virtual_learning_rate: float,
    mode: MetaMode = "jvp",
    features: Tensor | None = None,
    accumulation: int = 1,
) -> None:
    """Write the gradient of Eq. 6, averaged over the ranks, to the `.grad` of the generators' parameters.

    Parameters, gradients and buffers of the encoder and buffers of the generators are afterwards what they were, bit
    for bit. A collective call.

    Args:
        model: with generators.
        images: one tensor [B, C_v, H, W] per view.
        sample: their bank rows.
        virtual_learning_rate: l of the virtual step theta' (Eq. 3).
        mode: see :data:`MetaMode`.
        features: z of these images at theta, [V, B, D], if the encoder's `.grad` holds g of this very minibatch, which
            spares a forward and a backward pass (`fused`); None to have both made here (`separate`).
        accumulation: parts that the minibatch is taken through the encoder in. The gradient is the same, but that batch
            norm and the margins of R_sigma see a part.

    Raises:
        ValueError: unknown mode, `double_backward` over several ranks or parts, `difference` of parameters below
            float32, or no generators.
    """
    check_choice("meta gradient mode", mode, MetaMode)
    if model.generators is None:
        raise ValueError("the meta gradient is that of generators, and this model has none: build it with Generators")
    ranks = distributed.world_size(model.group)
    if mode == "double_backward" and (ranks > 1 or accumulation > 1):
        raise ValueError(
            "mode double_backward is the reference for one process and one part, "
            f"and there are {ranks} and {accumulation}: use jvp or difference"
        )
    encoder, generators = model.eager_encoder, model.generators
    theta = {name: parameter for name, parameter in encoder.named_parameters() if parameter.requires_grad}
    omega = [parameter for parameter in generators.parameters() if parameter.requires_grad]
    coarse = {str(p.dtype) for p in theta.values() if torch.finfo(p.dtype).eps > torch.finfo(torch.float32).eps}
    if mode == "difference" and coarse:
        raise ValueError(
            f"mode difference cannot resolve {' and '.join(coarse)} parameters: "
            "use jvp, or float32 parameters under autocast"
        )
    generators.zero_grad()
    # Backward passes, too, would take up an autocast context that the caller has open.
    with _restored(encoder, generators) as start, torch.autocast(images[0].device.type, enabled=False):
        if mode == "double_backward":
            gradients = _double_backward(model, images, sample, theta, omega, virtual_learning_rate)
        else:
            gradients = _in_feature_space(
                model, images, sample, theta, start, omega, virtual_learning_rate, mode, features, accumulation
            )
    distributed.average(gradients, model.group)
    for parameter, gradient in zip(omega, gradients, strict=True):
        parameter.grad = gradient


def _in_feature_space(
    model: Model,
    images: Sequence[Tensor],
    sample: BankSample,
    theta: dict[str, nn.Parameter],
    start: dict[str, Tensor],
    omega: list[nn.Parameter],
    virtual_learning_rate: float,
    mode: MetaMode,
    features: Tensor | None,
    accumulation: int,
) -> list[Tensor]:
    """The gradient of this rank's part of the minibatch, by the formula of the module; `start` holds the values of
    theta."""
    if features is None:
        features = model_gradient(model, images, sample, list(theta.values()), accumulation)[0]

    _place(theta, start, _gradients(theta), -virtual_learning_rate)
    model.encoder.zero_grad()
    ends = []
    for part, seen, local in model.parts(images, sample, accumulation):
        with local:
            moved = model.encode(part)
            objective = _objective(model, moved, seen, meta=True) / accumulation
            torch.autograd.backward(objective, inputs=[*theta.values(), *omega, moved])
        ends.append(moved)
    v = _gradients(theta)
    _place(theta, start)
    if mode == "jvp":
        zdot = [_forward_mode(model, part, v) for part, _, _ in model.parts(images, sample, accumulation)]
    else:
        parts = [part for part, _, _ in model.parts(images, sample, accumulation)]
        zdot = _central_differences(model, parts, theta, start, v, ends)

    second_order = [torch.zeros_like(parameter) for parameter in omega]
    at_theta = features.detach().split([z.shape[1] for z in ends], dim=1)
    for (_, seen, _), tangent, z in zip(model.parts(images, sample, accumulation), zdot, at_theta, strict=True):
        # L_ori has no omega in it, so its mixed derivative is zero.
        z.requires_grad_()
        original, augmented = (pair_similarities(features, seen) for features in (z, model.augment(z)))
        loss = model.objective.delta * model.objective.augmented(original, augmented) / accumulation
        (gradient,) = torch.autograd.grad(loss, z, create_graph=True)
        torch._foreach_add_(second_order, torch.autograd.grad((gradient * tangent).sum(), omega))
    return [
        parameter.grad - virtual_learning_rate * second
        for parameter, second in zip(omega, second_order, strict=True)
        if parameter.grad is not None
    ]


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
            with torch.autocast(z.device.type, enabled=False):
                torch.autograd.backward(comparison.losses.total / accumulation, inputs=theta)
        features.append(z.detach())
        comparisons.append(comparison.detach())
    return torch.cat(features, 1), Comparison.join(comparisons)


def _double_backward(
    model: Model,
    images: Sequence[Tensor],
    sample: BankSample,
    theta: dict[str, nn.Parameter],
    omega: list[nn.Parameter],
    virtual_learning_rate: float,
) -> list[Tensor]:
    """The same gradient by differentiating through theta' itself."""

    def objective(parameters: dict[str, Tensor], *, meta: bool) -> Tensor:
        with torch.compiler.set_stance("force_eager"), model.precision(images):
            features = functional_call(model.eager_encoder, parameters, (images,)).features
        return _objective(model, features, sample, meta=meta)

    regular = objective(dict(theta), meta=False)
    gradient = torch.autograd.grad(regular, list(theta.values()), create_graph=True)
    virtual = {
        name: parameter - virtual_learning_rate * g
        for (name, parameter), g in zip(theta.items(), gradient, strict=True)
    }
    return list(torch.autograd.grad(objective(virtual, meta=True), omega))


def _objective(model: Model, features: Tensor, sample: BankSample, *, meta: bool) -> Tensor:
    """L_MetAug, the encoder's objective, or L_MetAug + alpha R_sigma, the generators'."""
    losses, original, augmented = model.compare(features, sample)
    if not meta or augmented is None:
        return losses.total
    return losses.total + model.objective.alpha * model.objective.regularization(original, augmented, group=model.group)


def _forward_mode(model: Model, images: Sequence[Tensor], direction: dict[str, Tensor]) -> Tensor:
    """The tangent zdot = J_theta z . v in one pass of dual numbers, without a graph."""
    encoder = model.eager_encoder
    with torch.no_grad(), forward_ad.dual_level(), torch.compiler.set_stance("force_eager"), model.precision(images):
        duals = {
            name: forward_ad.make_dual(encoder.get_parameter(name).detach(), tangent)
            for name, tangent in direction.items()
        }
        zdot: Tensor = forward_ad.unpack_dual(functional_call(encoder, duals, (images,)).features).tangent
    return zdot


def _central_differences(
    model: Model,
    parts: list[list[Tensor]],
    theta: dict[str, nn.Parameter],
    start: dict[str, Tensor],
    v: dict[str, Tensor],
    moved: list[Tensor],
) -> list[Tensor]:
    """The tangent zdot = [z(theta + eps v) - z(theta - eps v)] / (2 eps) of each part, in float32 at least; `moved` are
    z(theta') with their gradients."""
    length = _norm(v.values())
    gradients = [z.grad for z in moved if z.grad is not None]
    if length == 0.0 or not gradients:
        return [torch.zeros_like(z) for z in moved]
    # Rounding grows as 1 / eps, and so does, as eps, the share of ReLUs and poolings that flip between the two ends:
    # the sum is least where z moves by the square root of the machine's epsilon. |zdot| itself is about |v|^2 /
    # |dL/dz|, as <dL/dz, zdot> = |v|^2.
    speed = length**2 / _norm(gradients)
    eps = math.sqrt(torch.finfo(moved[0].dtype).eps) * _norm([z.detach() for z in moved]) / speed
    ends: list[list[Tensor]] = []
    # In full precision, whatever the model's: the two ends differ by less than bfloat16 can tell apart.
    with torch.no_grad():
        for side in (eps, -eps):
            _place(theta, start, v, side)
            ends.append([model.eager_encoder(part).features for part in parts])
    _place(theta, start)
    return [(ahead - behind) / (2 * eps) for ahead, behind in zip(*ends, strict=True)]


def _gradients(theta: dict[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in theta.items()}


def _norm(tensors: Iterable[Tensor]) -> float:
    return float(torch.stack(torch._foreach_norm(list(tensors))).norm())


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
    buffers = [*encoder.buffers(), *generators.buffers()]
    saved = [buffer.clone() for buffer in buffers]
    try:
        yield start
    finally:
        _place(parameters, start)
        for name, parameter in parameters.items():
            parameter.grad = gradients[name]
        for buffer, old in zip(buffers, saved, strict=True):
            buffer.copy_(old)
