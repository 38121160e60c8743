"""The `lookahead` schedule against double back-propagation through two steps that are really made."""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.func import functional_call
from torch.optim import SGD, Optimizer

from metaug_ray.choices import MetaSchedule, TargetKind
from metaug_ray.method.algorithm import MetaStep, MetAug, Minibatch
from metaug_ray.method.linearization import Part
from metaug_ray.method.model import Model
from metaug_ray.method.targets import Targets
from tests.method.small import freeze_batch_norm, make_bank, make_images, make_model
from tests.method.small_star import make_crops, make_star

BATCH = 8
RATE, HEAD_RATE = 0.02, 0.05
FORMS: tuple[TargetKind, ...] = ("bank", "batch", "neighbours")


class Case(NamedTuple):
    model: Model
    targets: Targets
    batches: list[Minibatch]


def make_case(form: TargetKind) -> Case:
    bank = form == "bank"
    model, targets = (make_model(), make_bank()) if bank else make_star(form)
    indices = [torch.arange(BATCH) * 11 + 3 * step for step in range(4)]
    images = [(make_images if bank else make_crops)(BATCH, seed=step) for step in range(4)]
    return Case(model, targets, [Minibatch(*each) for each in zip(images, indices, strict=True)])


def sgd(model: Model, **options: Any) -> tuple[Optimizer, Optimizer]:
    """Optimisers of encoders and heads, at rates of their own."""
    encoder = model.eager_encoder
    common: dict[str, Any] = {"momentum": 0.9, "weight_decay": 1e-2} | options
    return SGD(encoder.encoders.parameters(), lr=RATE, **common), SGD(
        encoder.heads.parameters(), lr=HEAD_RATE, **common
    )


def make_metaug(case: Case, meta: MetaStep, optimizers: tuple[Optimizer, Optimizer], **options: Any) -> MetAug:
    assert case.model.generators is not None
    generator = SGD(case.model.generators.parameters(), lr=0.05)
    return MetAug(case.model, case.targets, optimizers[0], generator, meta, head_optimizer=optimizers[1], **options)


def flat(gradients: Any) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in gradients])


def generator_gradient(model: Model) -> Tensor:
    assert model.generators is not None
    return flat(parameter.grad for parameter in model.generators.parameters())


Update = Callable[[Tensor, Tensor, Tensor | None, float], Tensor]


def momentum_update(parameter: Tensor, gradient: Tensor, buffer: Tensor | None, rate: float) -> Tensor:
    """SGD with momentum and l2 penalty, by its definition."""
    gradient = gradient + 1e-2 * parameter
    return parameter - rate * (gradient if buffer is None else 0.9 * buffer + gradient)


def nesterov_update(parameter: Tensor, gradient: Tensor, buffer: Tensor | None, rate: float) -> Tensor:
    gradient = gradient + 1e-2 * parameter
    buffer = gradient if buffer is None else 0.9 * buffer + gradient
    return parameter - rate * (gradient + 0.9 * buffer)


def oracle(
    case: Case, buffers: dict[str, Tensor | None], step: int, next_targets: Targets, update: Update
) -> tuple[Tensor, Tensor]:
    """d/domega of L(theta', omega) + alpha R of minibatch step + 1, theta' being what the update makes of theta on
    minibatch `step`: whole, and without the way through theta'."""
    model = case.model
    assert model.generators is not None
    encoder, omega = model.eager_encoder, list(model.generators.parameters())
    theta = dict(encoder.named_parameters())

    def loss(parameters: dict[str, Tensor], number: int, targets: Targets) -> tuple[Tensor, Tensor]:
        images, indices, _ = case.batches[number]
        output = functional_call(encoder, parameters, (images,))
        keys = targets.ask(indices, number).keys(output.projections)
        at_fixed_features = model.compare(output.features.detach(), keys)
        objective = model.objective.generator_objective(*at_fixed_features)
        return model.compare(output.features, keys).losses.total, objective - at_fixed_features.losses.total

    total, _ = loss(theta, step, case.targets)
    gradients = torch.autograd.grad(total, list(theta.values()), create_graph=True)
    moved = {
        name: update(parameter, gradient, buffers[name], HEAD_RATE if name.startswith("heads") else RATE)
        for (name, parameter), gradient in zip(theta.items(), gradients, strict=True)
    }
    total, own = loss(moved, step + 1, next_targets)
    whole = flat(torch.autograd.grad(total + own, omega, retain_graph=True))
    fixed = {name: parameter.detach().requires_grad_() for name, parameter in moved.items()}
    total, own = loss(fixed, step + 1, next_targets)
    return whole, flat(torch.autograd.grad(total + own, omega))


@pytest.mark.parametrize(("nesterov", "keep_activations"), [(False, False), (True, True)])
@pytest.mark.parametrize("form", FORMS)
def test_is_double_backward_through_the_step_that_was_made(
    form: TargetKind, nesterov: bool, keep_activations: bool
) -> None:
    """With momentum that an earlier step left behind, decay, and a rate of its own for the heads."""
    case = make_case(form)
    optimizers = sgd(case.model, nesterov=nesterov)
    meta = MetaStep("lookahead", every=2, keep_activations=keep_activations)
    metaug = make_metaug(case, meta, optimizers)
    metaug.step(0, case.batches[0])
    before = deepcopy(case)
    buffers = {
        name: optimizer.state[parameter]["momentum_buffer"].clone()
        for name, parameter in case.model.eager_encoder.named_parameters()
        for optimizer in optimizers
        if parameter in optimizer.state
    }
    metaug.step(1, case.batches[1])
    exact, first_order = oracle(
        before, buffers, 1, deepcopy(case.targets), nesterov_update if nesterov else momentum_update
    )
    assert metaug.step(2, case.batches[2]).applied
    ours = generator_gradient(case.model)
    assert (ours - exact).norm() <= 1e-9 * exact.norm()
    assert (ours - first_order).norm() >= 1e-4 * exact.norm()


@pytest.mark.parametrize("keep_activations", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_a_gradient_of_parts_is_that_of_the_whole_in_the_mean(
    form: TargetKind, keep_activations: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of which part a step takes the tangents, chance decides; with batch norm of the encoder fixed, the mean over all
    is exact."""
    gradients: dict[int | None, Tensor] = {}
    for number in (None, 0, 1, 2, 3):
        case = make_case(form)
        freeze_batch_norm(case.model.encoder)
        share = 1.0 if number is None else 0.25
        meta = MetaStep("lookahead", share=share, keep_activations=keep_activations)
        metaug = make_metaug(case, meta, sgd(case.model))
        if number is not None:
            monkeypatch.setattr(metaug, "_part", partial(_part, number))
        for step in range(2):
            metaug.step(step, case.batches[step])
        gradients[number] = generator_gradient(case.model)
    whole = gradients.pop(None)
    mean = torch.stack(list(gradients.values())).mean(0)
    torch.testing.assert_close(mean, whole, rtol=1e-9, atol=1e-12)
    assert all((part - whole).norm() > 1e-4 * whole.norm() for part in gradients.values())


def _part(number: int, step: int) -> Part:
    return Part(number, 4)


@pytest.mark.parametrize("keep_activations", [False, True])
@pytest.mark.parametrize("schedule", ["fused", "separate"])
def test_other_schedules_take_a_part_too(schedule: MetaSchedule, keep_activations: bool) -> None:
    gradients = []
    for share in (1.0, 0.5):
        case = make_case("bank")
        meta = MetaStep(schedule, 0.02, share=share, keep_activations=keep_activations)
        metaug = make_metaug(case, meta, sgd(case.model))
        metaug.step(0, case.batches[0], case.batches[1] if schedule == "separate" else None)
        gradients.append(generator_gradient(case.model))
    cosine = torch.cosine_similarity(*gradients, dim=0)
    assert 0.3 < cosine < 0.999


@pytest.mark.parametrize("share", [None, 1.0, 0.25])
@pytest.mark.parametrize("form", FORMS)
def test_a_step_that_was_kept_goes_through_a_checkpoint(form: TargetKind, share: float | None) -> None:
    """Its images are read again, and activations are made again where they are kept; what the step moved in bank or
    support set since does not count."""
    meta = MetaStep("lookahead") if share is None else MetaStep("lookahead", share=share, keep_activations=True)
    whole = make_case(form)
    metaug = make_metaug(whole, meta, sgd(whole.model))
    metaug.step(0, whole.batches[0])
    resumed = make_case(form)
    again = make_metaug(resumed, meta, sgd(resumed.model))
    assert metaug.lookahead is not None
    assert again.lookahead is not None
    for module, other in (
        (metaug.model.encoder, again.model.encoder),
        (metaug.model.generators, again.model.generators),
    ):
        assert module is not None
        assert other is not None
        other.load_state_dict(module.state_dict())
    resumed.targets.load_state_dict(deepcopy(whole.targets.state_dict()))
    state = deepcopy(metaug.lookahead.state_dict(BATCH))
    assert_same_shapes(state, again.lookahead.state_dict(BATCH))
    again.lookahead.load_state_dict(state)
    assert again.lookahead.lacks_images
    with pytest.raises(RuntimeError, match="lacks its images"):
        deepcopy(again.lookahead).take()
    again.lookahead.recall(resumed.batches[0].images, resumed.batches[0].indices, 0)
    torch.testing.assert_close(resumed.targets.state_dict(), whole.targets.state_dict(), rtol=0, atol=0)
    for each, case in ((metaug, whole), (again, resumed)):
        each.step(1, case.batches[1])
    torch.testing.assert_close(generator_gradient(resumed.model), generator_gradient(whole.model), rtol=0, atol=0)


def test_nothing_is_kept_of_a_step_that_was_judged() -> None:
    """So that checkpoints of a run that was broken off and of one that was not are the same."""
    case = make_case("bank")
    metaug = make_metaug(case, MetaStep("lookahead", every=2), sgd(case.model))
    assert metaug.lookahead is not None
    fresh = deepcopy(metaug.lookahead.state_dict(BATCH))
    for step in range(3):
        metaug.step(step, case.batches[step])
        assert metaug.lookahead.keeps == (step == 1)
    torch.testing.assert_close(metaug.lookahead.state_dict(BATCH), fresh, rtol=0, atol=0)


def test_activations_are_kept_of_steps_that_are_looked_back_at_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case("bank")
    metaug = make_metaug(case, MetaStep("lookahead", every=2, keep_activations=True), sgd(case.model))
    recorded, record = [], metaug._linearization
    monkeypatch.setattr(metaug, "_linearization", lambda step: (recorded.append(step), record(step))[1])
    for step in range(4):
        metaug.step(step, case.batches[step])
    assert recorded == [2, 4]  # the steps that judge steps 1 and 3


def assert_same_shapes(ours: Any, theirs: Any) -> None:
    """What `torch.distributed.checkpoint` loads into must be of the shapes that were saved."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        if isinstance(value, dict):
            assert_same_shapes(value, theirs[name])
        else:
            assert (value.shape, value.dtype) == (theirs[name].shape, theirs[name].dtype), name


def test_a_skipped_step_is_not_looked_back_at(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case("bank")
    metaug = make_metaug(case, MetaStep("lookahead"), sgd(case.model))
    assert not metaug.takes_meta_step(0)
    assert metaug.step(0, case.batches[0]).norms.generator == 0
    assert metaug.takes_meta_step(1)
    contrast = case.model.objective.contrast
    monkeypatch.setattr(case.model.objective, "contrast", lambda *d: contrast(*d) * float("nan"))
    assert not metaug.step(1, case.batches[1]).applied
    monkeypatch.setattr(case.model.objective, "contrast", contrast)
    assert not metaug.takes_meta_step(2)
    outcome = metaug.step(2, case.batches[2])
    assert outcome.applied
    assert outcome.norms.generator == 0
    assert metaug.step(3, case.batches[3]).norms.generator > 0


@pytest.mark.parametrize("kind", ["sgd, clipped", "adam"])
def test_the_rate_of_the_step_that_was_made(kind: str) -> None:
    """What the optimiser did to the gradient, as far as it is known: clipping, or the virtual learning rate."""
    case = make_case("bank")
    theta = [parameter.detach().clone() for parameter in case.model.encoder.parameters()]
    if kind == "adam":
        encoder = case.model.eager_encoder
        adams = tuple(torch.optim.AdamW(part.parameters()) for part in (encoder.encoders, encoder.heads))
        metaug = make_metaug(case, MetaStep("lookahead", 0.125), adams)
        metaug.step(0, case.batches[0])
    else:
        plain = sgd(case.model, weight_decay=0.0)
        metaug = make_metaug(case, MetaStep("lookahead", 0.125), plain, clip_norm=1e-3)
        metaug.step(0, case.batches[0])
    assert metaug.lookahead is not None
    taken = metaug.lookahead.take()
    assert taken is not None
    step, rates = taken
    for (name, before), was, parameter in zip(step.theta.items(), theta, case.model.encoder.parameters(), strict=True):
        assert torch.equal(before, was)
        rate = rates.greatest * rates.others.get(name, 1)
        if kind == "adam":
            assert rate == 0.125
        else:  # the gradient is clipped by now, the rate is that of the one before
            assert rate < 1e-2 * (HEAD_RATE if name.startswith("heads") else RATE)
            assert parameter.grad is not None
            torch.testing.assert_close(
                parameter.detach() - was,
                -(HEAD_RATE if name.startswith("heads") else RATE) * parameter.grad,
                rtol=1e-9,
                atol=1e-15,
            )


def test_a_share_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"share is 0\.3: it must be one over a whole number"):
        MetaStep(share=0.3)
    case = make_case("bank")
    metaug = make_metaug(case, MetaStep(share=0.125), sgd(case.model))
    with pytest.raises(ValueError, match=r"a minibatch of 8 does not divide into 8 parts of at least 2 \(share\)"):
        metaug.step(0, case.batches[0])
