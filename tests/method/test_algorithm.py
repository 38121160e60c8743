"""The training step against the same step written out, and what a step must leave alone."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from metaug_ray.choices import MetaSchedule, NegativeSampling
from metaug_ray.method.algorithm import MetaStep, MetAug, Minibatch
from metaug_ray.method.contrast import NoiseContrastiveEstimation
from metaug_ray.method.generators import Generators
from metaug_ray.method.model import Model
from metaug_ray.method.objective import Objective
from metaug_ray.method.targets.memory_bank import MemoryBank
from metaug_ray.method.unit_vectors import unit
from tests.method.double_backward import double_backward
from tests.method.small import freeze_batch_norm, make_bank, make_images, make_model

INDICES = torch.tensor([3, 150, 202, 77, 0, 101])
META_INDICES = torch.tensor([9, 8, 7, 6, 5, 4])


def minibatches() -> tuple[Minibatch, Minibatch]:
    return Minibatch(make_images(6, seed=1), INDICES), Minibatch(make_images(6, seed=2), META_INDICES)


def make_metaug(meta: MetaStep = MetaStep(), model: Model | None = None) -> MetAug:  # noqa: B008 (frozen)
    model = model or make_model()
    generator_optimizer = (
        None if model.generators is None else torch.optim.SGD(model.generators.parameters(), lr=0.3, momentum=0.9)
    )
    encoder_optimizer = torch.optim.SGD(model.encoder.parameters(), lr=0.1, momentum=0.9)
    return MetAug(model, make_bank(), encoder_optimizer, generator_optimizer, meta)


def weights(module: nn.Module | None) -> list[Tensor]:
    assert module is not None
    return [p.detach().clone() for p in module.parameters()]


def bank_rows(bank: MemoryBank) -> Tensor:
    rows: Tensor = bank.state_dict()["rows"]
    return rows.clone()


def test_fused_step_written_out() -> None:
    """Encoders and generators step from gradients at the same theta, on the same minibatch and draws."""
    batch, _ = minibatches()
    metaug = make_metaug(MetaStep("fused", virtual_learning_rate=0.02))
    comparison = metaug.step(4, batch)

    model, bank = make_model(), make_bank()
    before = bank_rows(bank)
    sample = bank.sample(INDICES, 4)
    losses = model.compare(model.encode(batch.images).features, sample).losses
    features, theta_gradient, omega_gradient = double_backward(model, batch.images, sample, virtual_learning_rate=0.02)
    for ours, p, g in zip(weights(metaug.model.encoder), weights(model.encoder), theta_gradient, strict=True):
        torch.testing.assert_close(ours, p - 0.1 * g, rtol=1e-9, atol=1e-12)
    for ours, p, g in zip(weights(metaug.model.generators), weights(model.generators), omega_gradient, strict=True):
        torch.testing.assert_close(ours, p - 0.3 * g, rtol=1e-9, atol=1e-10)
    before[INDICES] = unit(0.5 * before[INDICES] + 0.5 * features.transpose(0, 1))
    torch.testing.assert_close(bank_rows(metaug.targets), before, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(comparison.losses.total, losses.total.detach())
    assert not any(d.requires_grad for part in (comparison.original, comparison.augmented) for d in part or ())


def test_separate_step_is_algorithm_1() -> None:
    """Theta first; then the generators, at the new theta, on their own minibatch and draws, with the refreshed bank."""
    batch, meta_batch = minibatches()
    metaug = make_metaug(MetaStep("separate", virtual_learning_rate=0.02))
    metaug.step(4, batch, meta_batch)

    by_hand = make_metaug()
    model, bank = by_hand.model, by_hand.targets
    sample = bank.sample(INDICES, 4)
    features = model.encode(batch.images).features
    model.compare(features, sample).losses.total.backward()
    by_hand.encoder_optimizer.step()
    bank.refresh(sample, features)
    assert model.generators is not None
    statistics = deepcopy((dict(model.encoder.named_buffers()), dict(model.generators.named_buffers())))
    sample = bank.sample(META_INDICES, 4, stream="meta")
    gradients = double_backward(model, meta_batch.images, sample, virtual_learning_rate=0.02)
    for parameter, gradient in zip(model.generators.parameters(), gradients.omega, strict=True):
        parameter.grad = gradient
    assert by_hand.generator_optimizer is not None
    by_hand.generator_optimizer.step()
    for mine, theirs in ((metaug.model.encoder, model.encoder), (metaug.model.generators, model.generators)):
        for ours, expected in zip(weights(mine), weights(theirs), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-10)
    assert torch.equal(bank_rows(metaug.targets), bank_rows(bank))
    assert metaug.model.generators is not None
    buffers = dict(metaug.model.encoder.named_buffers()), dict(metaug.model.generators.named_buffers())
    torch.testing.assert_close(buffers, statistics)


@pytest.mark.parametrize("meta", [MetaStep("fused"), MetaStep("separate")])
def test_only_the_regular_forward_moves_batch_norm_statistics(meta: MetaStep) -> None:
    batch, meta_batch = minibatches()
    metaug, plain = make_metaug(meta), make_model()
    metaug.step(0, batch, meta_batch if meta.schedule == "separate" else None)
    with torch.no_grad():
        plain.compare(plain.encode(batch.images).features, make_bank().sample(INDICES, 0))
    for trained, expected in (
        (metaug.model.encoder, plain.encoder),
        (metaug.model.generators, plain.generators),
    ):
        assert trained is not None
        assert expected is not None
        assert dict(expected.named_buffers())
        torch.testing.assert_close(dict(trained.named_buffers()), dict(expected.named_buffers()), rtol=0, atol=0)


@pytest.mark.parametrize("schedule", ["fused", "separate"])
def test_every_nth_step_trains_the_generators(schedule: str) -> None:
    metaug = make_metaug(MetaStep(schedule, every=3))  # type: ignore[arg-type]
    batch, meta_batch = minibatches()
    for step in range(5):
        before, theta = weights(metaug.model.generators), weights(metaug.model.encoder)
        takes = metaug.takes_meta_step(step)
        assert takes == (step in (0, 3))
        metaug.step(step, batch, meta_batch if takes and schedule == "separate" else None)
        moved = any((a != b).any() for a, b in zip(before, weights(metaug.model.generators), strict=True))
        assert moved == takes
        assert any((a != b).any() for a, b in zip(theta, weights(metaug.model.encoder), strict=True))


def test_without_generators_it_is_the_contrast_alone() -> None:
    model = make_model(generators=False)
    metaug = make_metaug(model=model)
    comparison = metaug.step(0, minibatches()[0])
    assert comparison.augmented is None
    assert comparison.losses.total == comparison.losses.original
    assert comparison.losses.augmented == 0


def test_variants_are_settings() -> None:
    """CMC (NCE, no generators), and "only MAG" (InfoNCE with generators, here NCE) train like the others."""
    for generators in (False, True):
        model = make_model(generators=generators)
        nce = NoiseContrastiveEstimation(2).double()
        metaug = make_metaug(model=Model(model.encoder, model.generators, Objective(nce, delta=0.1, alpha=0.1)))
        before = weights(model.encoder)
        for step in range(2):
            assert metaug.step(step, minibatches()[0]).losses.total.isfinite()
        assert any((a != b).any() for a, b in zip(before, weights(model.encoder), strict=True))
        assert "contrast.log_normalizer" in metaug.model.objective.state_dict()


def test_wrong_use_is_named() -> None:
    batch, meta_batch = minibatches()
    with pytest.raises(ValueError, match="step 0 of schedule 'separate' needs a meta_minibatch"):
        make_metaug(MetaStep("separate")).step(0, batch)
    with pytest.raises(ValueError, match="step 1 of schedule 'separate' takes no meta_minibatch"):
        make_metaug(MetaStep("separate", every=2)).step(1, batch, meta_batch)
    with pytest.raises(ValueError, match="step 0 of schedule 'fused' takes no meta_minibatch"):
        make_metaug().step(0, batch, meta_batch)
    model = make_model()
    with pytest.raises(ValueError, match="got generators and no generator_optimizer"):
        MetAug(model, make_bank(), torch.optim.SGD(model.encoder.parameters(), lr=0.1))
    with pytest.raises(ValueError, match="every is 0"):
        MetaStep(every=0)
    with pytest.raises(ValueError, match="unknown schedule 'later': choose from fused, separate, lookahead"):
        MetaStep("later")  # type: ignore[arg-type]
    for rate in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match=f"virtual_learning_rate is {rate}"):
            MetaStep(virtual_learning_rate=rate)
    with pytest.raises(ValueError, match=r"has 1 indices and \[6, 6\] images"):
        make_metaug().step(0, batch._replace(indices=INDICES[:1]))
    one = Minibatch(make_images(1), INDICES[:1])
    with pytest.raises(ValueError, match="a minibatch of 1 is too small: give each rank at least 2"):
        make_metaug().step(0, one)
    with pytest.raises(IndexError, match="index 203 is outside"):
        make_metaug().step(0, batch._replace(indices=torch.full((6,), 203)))


def test_activations_cannot_be_kept_of_parts_or_compiled_encoders() -> None:
    meta = MetaStep(keep_activations=True)
    model = make_model()
    assert model.generators is not None
    optimizers = [torch.optim.SGD(module.parameters(), lr=0.1) for module in (model.encoder, model.generators)]
    with pytest.raises(ValueError, match="keep_activations needs"):
        MetAug(model, make_bank(), *optimizers, meta, accumulation=2)
    wrapped = replace(model, encoder=torch.compile(model.encoder, backend="eager"))  # type: ignore[arg-type]
    model.encoder.compile(backend="eager")
    for compiled in (model, wrapped):
        with pytest.raises(ValueError, match="keep_activations needs"):
            MetAug(compiled, make_bank(), *optimizers, meta)


def test_without_generators_there_is_nothing_to_keep() -> None:
    model = make_model(generators=False)
    optimizer = torch.optim.SGD(model.encoder.parameters(), lr=0.1)
    metaug = MetAug(model, make_bank(), optimizer, meta=MetaStep(keep_activations=True), accumulation=2)
    assert metaug.step(0, minibatches()[0]).applied


def test_parts_that_do_not_fit_are_named() -> None:
    model = make_model()
    optimizer = torch.optim.SGD(model.encoder.parameters(), lr=0.1)
    with pytest.raises(ValueError, match=r"'encoder': \(2, 32\), 'targets': \(3, 32\), 'generators': \(2, 32\)"):
        MetAug(model, MemoryBank(10, 3, 32), optimizer, optimizer)
    with pytest.raises(ValueError, match=r"'generators': \(2, 16\)"):
        MetAug(replace(model, generators=Generators(2, 16)), make_bank(), optimizer, optimizer)


def test_gradients_of_parameters_that_the_optimizer_leaves_out_do_not_pile_up() -> None:
    metaug = make_metaug()
    metaug.encoder_optimizer = torch.optim.SGD(metaug.model.eager_encoder.heads.parameters(), lr=0.0)
    assert metaug.model.generators is not None
    metaug.generator_optimizer = torch.optim.SGD(metaug.model.generators.parameters(), lr=0.0)
    gradients = []
    for _ in range(2):
        metaug.targets = make_bank()
        metaug.step(0, minibatches()[0])
        gradients.append([p.grad.clone() for p in metaug.model.encoder.parameters() if p.grad is not None])
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("schedule", ["fused", "separate"])
@pytest.mark.parametrize("sampling", ["shared", "per_anchor"])
def test_a_minibatch_in_parts_trains_like_a_whole_one(schedule: MetaSchedule, sampling: NegativeSampling) -> None:
    """With batch norm fixed, and margins left out, which see a part."""
    batch, meta_batch = minibatches()
    outcomes = []
    for accumulation in (1, 3):
        model = make_model(alpha=0.0)
        assert model.generators is not None
        freeze_batch_norm(model.encoder)
        freeze_batch_norm(model.generators)
        metaug = MetAug(
            model,
            make_bank(sampling=sampling),
            torch.optim.SGD(model.encoder.parameters(), lr=0.1),
            torch.optim.SGD(model.generators.parameters(), lr=0.3),
            MetaStep(schedule, virtual_learning_rate=0.02),
            accumulation=accumulation,
        )
        outcome = metaug.step(0, batch, meta_batch if schedule == "separate" else None)
        assert outcome.original.positives.shape == (6, 2)
        outcomes.append(
            [
                *(*outcome.losses, *outcome.original, *outcome.norms, bank_rows(metaug.targets)),
                *(*weights(model.encoder), *weights(model.generators)),
            ]
        )
    for whole, parts in zip(*outcomes, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-9)


def test_parts_of_accumulation_must_fit() -> None:
    model = make_model()
    assert model.generators is not None
    optimizers = [torch.optim.SGD(m.parameters(), lr=0.1) for m in (model.encoder, model.generators)]
    with pytest.raises(ValueError, match="accumulation is 0"):
        MetAug(model, make_bank(), *optimizers, accumulation=0)
    with pytest.raises(ValueError, match=r"a minibatch of 6 does not divide into 4 parts"):
        MetAug(model, make_bank(), *optimizers, accumulation=4).step(0, minibatches()[0])
    with pytest.raises(ValueError, match="a minibatch of 6 in 6 parts is too small: give each rank at least 2"):
        MetAug(model, make_bank(), *optimizers, accumulation=6).step(0, minibatches()[0])


@pytest.mark.parametrize("schedule", ["fused", "separate"])
def test_a_step_that_is_not_finite_moves_nothing(schedule: MetaSchedule, monkeypatch: pytest.MonkeyPatch) -> None:
    metaug = make_metaug(MetaStep(schedule))
    batch, meta_batch = minibatches()
    arguments = (batch, meta_batch if schedule == "separate" else None)
    contrast = metaug.model.objective.contrast
    monkeypatch.setattr(metaug.model.objective, "contrast", lambda *d: contrast(*d) * float("nan"))
    assert metaug.model.generators is not None
    modules = nn.ModuleList([metaug.model.encoder, metaug.model.generators])
    before, rows = deepcopy(modules.state_dict()), bank_rows(metaug.targets)
    outcome = metaug.step(0, *arguments)
    assert not outcome.applied
    assert outcome.losses.total.isnan()
    torch.testing.assert_close(dict(modules.state_dict()), dict(before), rtol=0, atol=0)
    assert torch.equal(bank_rows(metaug.targets), rows)
    monkeypatch.setattr(metaug.model.objective, "contrast", contrast)
    assert metaug.step(0, *arguments).applied
    assert not torch.equal(bank_rows(metaug.targets), rows)


def test_gradient_norms_and_clipping() -> None:
    batch, _ = minibatches()
    plain, clipped = make_metaug(), make_metaug()
    clipped.clip_norm = 0.01
    norms = plain.step(0, batch).norms
    for norm, module in zip(
        norms,
        (plain.model.eager_encoder.encoders, plain.model.eager_encoder.heads, plain.model.generators),
        strict=True,
    ):
        assert module is not None
        gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        torch.testing.assert_close(norm, gradient.norm())
    assert clipped.step(0, batch).norms == norms
    assert clipped.model.generators is not None
    for module in (clipped.model.encoder, clipped.model.generators):
        gradient = torch.cat([p.grad.flatten() for p in module.parameters() if p.grad is not None])
        torch.testing.assert_close(gradient.norm(), torch.tensor(0.01, dtype=torch.float64), rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="clip_norm is 0"):
        MetAug(plain.model, plain.targets, plain.encoder_optimizer, plain.generator_optimizer, clip_norm=0.0)


def test_heads_may_have_an_optimizer_of_their_own() -> None:
    one, two = make_metaug(), make_metaug()
    two.encoder_optimizer = torch.optim.SGD(two.model.eager_encoder.encoders.parameters(), lr=0.1, momentum=0.9)
    two.head_optimizer = torch.optim.SGD(two.model.eager_encoder.heads.parameters(), lr=0.1, momentum=0.9)
    for metaug in (one, two):
        metaug.step(0, minibatches()[0])
    torch.testing.assert_close(weights(two.model.encoder), weights(one.model.encoder))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_bank_can_begin_with_features(accumulation: int) -> None:
    batch, _ = minibatches()
    metaug = make_metaug()
    metaug.accumulation = accumulation
    before = deepcopy(metaug.model.encoder.state_dict())
    metaug.fill_bank(batch)
    torch.testing.assert_close(dict(metaug.model.encoder.state_dict()), dict(before), rtol=0, atol=0)
    halves = [[view[i : i + 6 // accumulation] for view in batch.images] for i in range(0, 6, 6 // accumulation)]
    features = torch.cat([make_model().encode(part).features for part in halves], 1)
    torch.testing.assert_close(bank_rows(metaug.targets)[INDICES], features.detach().transpose(0, 1))
