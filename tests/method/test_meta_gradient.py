"""The meta gradient against double back-propagation through the virtual step."""

from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from functools import cache, partial

import pytest
import torch
from torch import Tensor

import metaug_ray.method.meta_gradient as module
from metaug_ray.encoder_table import EncoderName
from metaug_ray.method.compiled_tangents import CompiledTangents
from metaug_ray.method.contrast import unified_contrast
from metaug_ray.method.linearization import Linearization
from metaug_ray.method.meta_gradient import meta_gradient
from metaug_ray.method.model import Model
from metaug_ray.method.objective import Losses, Objective
from metaug_ray.method.similarities import Similarities
from tests.method.double_backward import double_backward
from tests.method.small import VIEWS, make_bank, make_images, make_model

BATCH = 16
# The second-order part is then a tenth of the gradient.
LEARNING_RATE: dict[EncoderName, float] = {"conv": 2.5e-3, "fc": 5e-4, "resnet18": 2.5e-3}


def gradient_of(model: Model, learning_rate: float, *, fused: bool = False, keep_activations: bool = False) -> Tensor:
    """The omega gradient, flat."""
    dtype = next(model.encoder.parameters()).dtype
    images = make_images(BATCH, dtype)
    sample = make_bank(dtype).sample(torch.arange(BATCH) * 12, 0)
    linearization = Linearization(model.eager_encoder, dtype=model.autocast) if keep_activations else None
    features = None
    if fused:
        with nullcontext() if linearization is None else linearization.recording(images):
            features = model.encode(images).features
        torch.autograd.backward(model.compare(features, sample).losses.total, inputs=list(model.encoder.parameters()))
    meta_gradient(
        model, images, sample, virtual_learning_rate=learning_rate, features=features, linearization=linearization
    )
    assert model.generators is not None
    return torch.cat([p.grad.flatten() for p in model.generators.parameters() if p.grad is not None])


def exact_gradient_of(model: Model, learning_rate: float) -> Tensor:
    """The same by the oracle."""
    dtype = next(model.encoder.parameters()).dtype
    sample = make_bank(dtype).sample(torch.arange(BATCH) * 12, 0)
    gradients = double_backward(model, make_images(BATCH, dtype), sample, virtual_learning_rate=learning_rate)
    return torch.cat([gradient.flatten() for gradient in gradients.omega])


def gradient(encoder: EncoderName, dtype: torch.dtype, *, autocast: torch.dtype | None = None, **how: bool) -> Tensor:
    return gradient_of(make_model(encoder, dtype, autocast=autocast), LEARNING_RATE[encoder], **how)


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm())


Reference = Callable[..., Tensor]


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Double back-propagation, once for each encoder and precision."""
    return cache(
        lambda encoder, dtype, autocast=None: exact_gradient_of(
            make_model(encoder, dtype, autocast=autocast), LEARNING_RATE[encoder]
        )
    )


def without_second_order(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(module, "_forward_mode", lambda *_: torch.zeros(len(VIEWS), BATCH, 1, dtype=dtype))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
@pytest.mark.parametrize("encoder", LEARNING_RATE)
def test_is_that_of_double_backward(
    encoder: EncoderName,
    dtype: torch.dtype,
    tolerance: float,
    reference: Reference,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exact = reference(encoder, dtype)
    for keep_activations in (False, True):
        assert (
            relative_error(gradient(encoder, dtype, fused=True, keep_activations=keep_activations), exact) <= tolerance
        )
    without_second_order(monkeypatch, dtype)  # dropping it must fail by far
    assert relative_error(gradient(encoder, dtype, fused=True), exact) >= 50 * tolerance


class Repelling(Objective):
    """An objective with a further term, which depends on features and generators."""

    def forward(self, original: Similarities, augmented: Similarities | None) -> Losses:
        losses = super().forward(original, augmented)
        assert augmented is not None
        term = (original.positives - augmented.positives).square().mean() + augmented.negatives.square().mean()
        return losses._replace(total=losses.total - 0.5 * term)


class RepellingGenerators(Objective):
    """One whose further term is the generators' alone."""

    def generator_objective(
        self, losses: Losses, original: Similarities, augmented: Similarities | None, **group: object
    ) -> Tensor:
        assert augmented is not None
        term = (original.positives - augmented.positives).square().mean()
        return super().generator_objective(losses, original, augmented, **group) - 0.5 * term  # type: ignore[arg-type]


@pytest.mark.parametrize("objective", [Repelling, RepellingGenerators])
@pytest.mark.parametrize("fused", [False, True])
def test_a_further_term_of_the_objective_is_differentiated_too(
    objective: type[Objective], fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the encoders' terms, only the further one depends on the generators.
    delta = 0.0 if objective is Repelling else 0.1
    changed = objective(partial(unified_contrast, beta=16.0, gamma=0.25), delta=delta, alpha=0.1)
    model = replace(make_model(), objective=changed)
    exact = exact_gradient_of(model, 2e-2)
    assert relative_error(gradient_of(model, 2e-2, fused=fused), exact) <= 1e-9
    assert relative_error(gradient_of(make_model(delta=delta), 2e-2), exact) >= 1e-2
    without_second_order(monkeypatch, torch.float64)
    assert relative_error(gradient_of(model, 2e-2, fused=fused), exact) >= 1e-3


def test_unshared_gradient_is_the_same() -> None:
    fused, separate = (gradient("conv", torch.float64, fused=fused) for fused in (True, False))
    torch.testing.assert_close(fused, separate, rtol=1e-12, atol=1e-12)
    kept = gradient("conv", torch.float64, fused=False, keep_activations=True)
    torch.testing.assert_close(kept, separate, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("encoder", LEARNING_RATE)
def test_second_order_part_under_bfloat16(
    encoder: EncoderName, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under bfloat16 the whole gradient is 15 to 25 % off, the reference too: compare the second order.

    Measured: 0.7 %.
    """
    exact = reference(encoder, torch.float32, torch.bfloat16)
    ours = [gradient(encoder, torch.float32, autocast=torch.bfloat16, keep_activations=keep) for keep in (False, True)]
    without_second_order(monkeypatch, torch.float32)
    first_order = gradient(encoder, torch.float32, autocast=torch.bfloat16)
    for each in ours:
        assert relative_error(each - first_order, exact - first_order) <= 0.03


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_an_open_autocast_context_changes_nothing(autocast: torch.dtype | None) -> None:
    """Neither does a pass take up its type, nor do the casts that it caches outlive a move of the parameters."""
    alone = gradient("conv", torch.float32, autocast=autocast)
    with torch.autocast("cpu", torch.bfloat16):
        inside = gradient("conv", torch.float32, autocast=autocast)
    torch.testing.assert_close(inside, alone, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_compiled_encoder(how: str) -> None:
    model = make_model()
    expected = gradient("conv", torch.float64)
    if how == "in place":
        model.encoder.compile(backend="aot_eager")
    else:
        tangents = CompiledTangents(model.eager_encoder, backend="aot_eager")
        model = replace(model, encoder=torch.compile(model.encoder, backend="aot_eager"), compiled_tangents=tangents)
    torch.testing.assert_close(gradient_of(model, LEARNING_RATE["conv"]), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("had_gradient", [True, False])
def test_everything_comes_back_bit_for_bit(had_gradient: bool) -> None:
    model = make_model(dtype=torch.float32)
    assert model.generators is not None
    optimizer = torch.optim.Adam(model.encoder.parameters(), lr=1e-3)
    images, sample = make_images(BATCH, torch.float32), make_bank(torch.float32).sample(torch.arange(BATCH), 0)
    model.compare(model.encode(images).features, sample).losses.total.backward()
    optimizer.step()
    if not had_gradient:
        optimizer.zero_grad()
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.encoder.named_parameters()}
    state = deepcopy((model.encoder.state_dict(), model.generators.state_dict(), optimizer.state_dict()))
    meta_gradient(model, images, sample, virtual_learning_rate=0.1)
    after = (model.encoder.state_dict(), model.generators.state_dict(), optimizer.state_dict())
    torch.testing.assert_close(after, state, rtol=0, atol=0)
    for name, parameter in model.encoder.named_parameters():
        assert (parameter.grad is None) == (not had_gradient)
        assert parameter.grad is None or torch.equal(parameter.grad, gradients[name])


def test_everything_comes_back_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(dtype=torch.float32)
    before = deepcopy(model.encoder.state_dict())
    monkeypatch.setattr(module, "_forward_mode", lambda *_: torch.zeros(2, BATCH, 3))  # fits no features
    with pytest.raises(RuntimeError, match="must match"):
        gradient_of(model, 0.1)
    torch.testing.assert_close(dict(model.encoder.state_dict()), dict(before), rtol=0, atol=0)


def test_frozen_layers_are_left_out() -> None:
    models = [make_model() for _ in range(2)]
    for model in models:
        next(model.eager_encoder.encoders["l"].parameters()).requires_grad_(False)
    assert relative_error(gradient_of(models[0], 1e-2), exact_gradient_of(models[1], 1e-2)) <= 1e-9


def test_a_model_without_generators_is_refused() -> None:
    model = make_model(generators=False)
    sample = make_bank().sample(torch.arange(2), 0)
    with pytest.raises(ValueError, match="this model has none"):
        meta_gradient(model, make_images(2), sample, virtual_learning_rate=0.1)
