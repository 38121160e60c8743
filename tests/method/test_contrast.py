"""Contrasts against readable versions of their formulas, in value and gradient, and at their numerical edges."""

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from metaug_ray.method.contrast import (
    NoiseContrastiveEstimation,
    centered,
    debiased_info_nce,
    hard_info_nce,
    info_nce,
    nce,
    nce_log_normalizer,
    unified_contrast,
    unified_contrast_attenuated,
    unified_contrast_eq8,
)

Contrast = Callable[[Tensor, Tensor], Tensor]


def double_sum(exponent: Callable[[Tensor, Tensor], Tensor], beta: float) -> Contrast:
    """(1/beta) log(1 + sum over all pairs of a negative and a positive of exp(beta exponent)), anchor by anchor."""

    def contrast(positives: Tensor, negatives: Tensor) -> Tensor:
        losses = []
        for anchor_positives, anchor_negatives in zip(positives, negatives.flatten(1), strict=True):
            total = torch.zeros((), dtype=positives.dtype)
            for positive in anchor_positives:
                for negative in anchor_negatives:
                    total = total + torch.exp(beta * exponent(positive, negative))
            losses.append(torch.log1p(total) / beta)
        return torch.stack(losses).mean()

    return contrast


def eq9_exponent(gamma: float, phi: float) -> Callable[[Tensor, Tensor], Tensor]:
    def exponent(positive: Tensor, negative: Tensor) -> Tensor:
        weight_positive = max(float(1 - positive.detach()) / phi + gamma, 0.0)
        weight_negative = max(float(negative.detach()) / phi + gamma, 0.0)
        return weight_negative * (negative - gamma) - weight_positive * (positive - (1 - gamma))

    return exponent


def per_pair(term: Callable[[Tensor, Tensor], Tensor]) -> Contrast:
    """Sum of `term(cosine of the positive, cosines of the negatives [K])` over pairs, mean over anchors."""

    def contrast(positives: Tensor, negatives: Tensor) -> Tensor:
        batch, pairs = positives.shape
        terms = [term(2 * positives[i, p] - 1, 2 * negatives[i, p] - 1) for i in range(batch) for p in range(pairs)]
        return torch.stack(terms).sum() / batch

    return contrast


def cross_entropy(t: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda s, n: F.cross_entropy(torch.cat([s[None], n])[None] / t, torch.tensor([0]))


def cmc_nce(t: float, size: int, z: float) -> Callable[[Tensor, Tensor], Tensor]:
    """NCECriterion of CMC: P = exp(s/t) / Z against noise of density 1/N."""

    def term(s: Tensor, n: Tensor) -> Tensor:
        noise = len(n) / size
        p, q = (s / t).exp() / z, (n / t).exp() / z
        return -(p / (p + noise)).log() - (noise / (q + noise)).log().sum()

    return term


def chuang(t: float, tau: float) -> Callable[[Tensor, Tensor], Tensor]:
    def term(s: Tensor, n: Tensor) -> Tensor:
        positive, negatives = (s / t).exp(), (n / t).exp()
        g = (negatives.mean() - tau * positive) / (1 - tau)
        return -(positive / (positive + len(n) * g.clamp_min(math.exp(-1 / t)))).log()

    return term


def robinson(t: float, tau: float, concentration: float) -> Callable[[Tensor, Tensor], Tensor]:
    def term(s: Tensor, n: Tensor) -> Tensor:
        positive, negatives = (s / t).exp(), (n / t).exp()
        importance = (concentration * n / t).exp()
        g = ((importance * negatives).sum() / importance.sum() - tau * positive) / (1 - tau)
        return -(positive / (positive + len(n) * g.clamp_min(math.exp(-1 / t)))).log()

    return term


LOG_NORMALIZER = torch.tensor([0.3, -0.2], dtype=torch.float64)


def nce_reference(positives: Tensor, negatives: Tensor) -> Tensor:
    size = 50
    pairs = [
        per_pair(cmc_nce(0.5, size, size * math.exp(LOG_NORMALIZER[p])))(
            positives[:, p : p + 1], negatives[:, p : p + 1]
        )
        for p in range(2)
    ]
    return torch.stack(pairs).sum()


CONTRASTS: dict[str, tuple[Contrast, Contrast]] = {
    **{
        f"unified beta {beta:g}": (
            partial(unified_contrast, beta=beta, gamma=0.25),
            double_sum(lambda p, n: (1 - p) ** 2 + n**2 - 2 * 0.25**2, beta),
        )
        for beta in (2.0, 16.0, 256.0)
    },
    "unified, centered": (
        centered(partial(unified_contrast, beta=16.0, gamma=0.25)),
        lambda p, n: double_sum(lambda p, n: (1 - p) ** 2 + n**2 - 2 * 0.25**2, 16.0)(
            p - n.mean(2) + 0.5, n - n.mean(2)[:, :, None] + 0.5
        ),
    ),
    "unified eq 8": (
        partial(unified_contrast_eq8, beta=16.0, margin=0.1),
        double_sum(lambda p, n: n - p + 0.1, 16.0),
    ),
    **{
        f"unified attenuated phi {phi:g}": (
            partial(unified_contrast_attenuated, beta=16.0, gamma=0.3, phi=phi),
            double_sum(eq9_exponent(0.3, phi), 16.0),
        )
        for phi in (1.0, 6.0)
    },
    "info nce": (partial(info_nce, temperature=0.07), per_pair(cross_entropy(0.07))),
    "nce": (partial(nce, temperature=0.5, log_normalizer=LOG_NORMALIZER), nce_reference),
    "debiased": (partial(debiased_info_nce, temperature=0.5, class_prior=0.1), per_pair(chuang(0.5, 0.1))),
    "debiased, at its floor": (
        partial(debiased_info_nce, temperature=0.5, class_prior=0.7),
        per_pair(chuang(0.5, 0.7)),
    ),
    "hard": (
        partial(hard_info_nce, temperature=0.5, class_prior=0.1, concentration=1.5),
        per_pair(robinson(0.5, 0.1, 1.5)),
    ),
}


def similarities(batch: int = 3, pairs: int = 2, count: int = 7, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    positives = torch.rand(batch, pairs, generator=generator, dtype=torch.float64)
    return positives, torch.rand(batch, pairs, count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", CONTRASTS)
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_are_the_formulas(name: str, seed: int) -> None:
    results = []
    for contrast in CONTRASTS[name]:
        inputs = [d.requires_grad_() for d in similarities(seed=seed)]
        value = contrast(*inputs)
        results.append([value, *torch.autograd.grad(value, inputs)])
    for ours, formula in zip(*results, strict=True):
        torch.testing.assert_close(ours, formula, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", CONTRASTS)
def test_negatives_may_be_flat(name: str) -> None:
    positives, negatives = similarities()
    contrast = CONTRASTS[name][0]
    assert contrast(positives, negatives.flatten(1)) == contrast(positives, negatives)


@pytest.mark.parametrize("name", CONTRASTS)
@pytest.mark.parametrize("shape", [(3, 13), (4, 14), (3, 3, 7), (3, 2, 7, 1), (3, 2, 0)])
def test_negatives_that_do_not_fit_are_named(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"do not fit positives \[3, 2\]: expected \[3, 2, K\] or \[3, 2 \* K\]"):
        CONTRASTS[name][0](similarities()[0], torch.rand(shape))


EDGE_CONTRASTS = {
    "unified": unified_contrast,
    "eq 8": lambda p, n, beta, gamma: unified_contrast_eq8(p, n, beta=beta, margin=gamma),
    "attenuated": partial(unified_contrast_attenuated, phi=6.0),
}


@pytest.mark.parametrize("name", EDGE_CONTRASTS)
@pytest.mark.parametrize("beta", [2.0, 16.0, 256.0])
@pytest.mark.parametrize("count", [1, 64, 65_536])
@pytest.mark.parametrize("precision", ["float32", "bfloat16 autocast", "bfloat16 inputs"])
def test_unified_contrasts_are_finite_at_the_edges(name: str, beta: float, count: int, precision: str) -> None:
    for positive in (0.0, 1.0):
        for negative in (0.0, 1.0):
            dtype = torch.bfloat16 if precision == "bfloat16 inputs" else torch.float32
            inputs = [
                torch.full((2, 2), positive, dtype=dtype).requires_grad_(),
                torch.full((2, 2, count), negative, dtype=dtype).requires_grad_(),
            ]
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16 autocast"):
                value = EDGE_CONTRASTS[name](*inputs, beta=beta, gamma=0.25)
                exact = EDGE_CONTRASTS[name](*(d.detach().double() for d in inputs), beta=beta, gamma=0.25)
            assert value.dtype == torch.float32
            torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=1e-30)
            # The meta gradient differentiates the gradient once more.
            gradients = torch.autograd.grad(value, inputs, create_graph=True)
            second = torch.autograd.grad(sum(g.float().square().sum() for g in gradients), inputs, allow_unused=True)
            for gradient in [*gradients, *(g for g in second if g is not None)]:
                assert gradient.isfinite().all()


@pytest.mark.parametrize("contrast", [info_nce, debiased_info_nce, hard_info_nce])
@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("count", [1, 65_536])
def test_info_nce_family_is_finite_at_the_edges(contrast: Contrast, temperature: float, count: int) -> None:
    for positive in (0.0, 1.0):
        for negative in (0.0, 1.0):
            inputs = [
                torch.full((2, 2), positive).requires_grad_(),
                torch.full((2, 2, count), negative).requires_grad_(),
            ]
            value = contrast(*inputs, temperature=temperature)  # type: ignore[call-arg]
            for result in (value, *torch.autograd.grad(value, inputs)):
                assert result.isfinite().all()


def test_attenuated_at_phi_one_has_the_value_of_eq10_but_not_its_gradient() -> None:
    inputs = [d.requires_grad_() for d in similarities()]
    plain = unified_contrast(*inputs, beta=8.0, gamma=0.25)
    attenuated = unified_contrast_attenuated(*inputs, beta=8.0, gamma=0.25, phi=1.0)
    torch.testing.assert_close(plain, attenuated, rtol=1e-12, atol=0)
    assert (torch.autograd.grad(plain, inputs[0])[0] - torch.autograd.grad(attenuated, inputs[0])[0]).abs().max() > 1e-3


def test_centered_is_blind_to_views_that_turn_away_from_one_another() -> None:
    positives, negatives = similarities()
    unified = partial(unified_contrast, beta=16.0, gamma=0.25)
    assert unified(positives - 0.1, negatives - 0.1) < unified(positives, negatives) - 0.01
    both = [centered(unified)(positives - shift, negatives - shift) for shift in (0, 0.1)]
    torch.testing.assert_close(*both)


def test_hard_with_no_concentration_is_debiased_and_without_prior_info_nce() -> None:
    inputs = similarities()
    debiased = debiased_info_nce(*inputs, class_prior=0.05)
    torch.testing.assert_close(hard_info_nce(*inputs, class_prior=0.05, concentration=0.0), debiased)
    torch.testing.assert_close(debiased_info_nce(*inputs, class_prior=0.0), info_nce(*inputs))


def test_nce_normalizer_is_the_mean_of_the_minibatch() -> None:
    positives, negatives = similarities()
    everything = torch.cat([positives[..., None], negatives], -1)
    expected = ((2 * everything - 1) / 0.07).exp().transpose(0, 1).flatten(1).mean(1).log()
    torch.testing.assert_close(nce_log_normalizer(positives, negatives, temperature=0.07), expected)


def test_nce_keeps_its_first_normalizer_and_a_checkpoint_keeps_it_too() -> None:
    first, second = similarities(seed=0), similarities(seed=1)
    contrast = NoiseContrastiveEstimation(2, temperature=0.5)
    contrast(*first)
    normalizer = nce_log_normalizer(*first, temperature=0.5)
    expected = nce(*second, temperature=0.5, log_normalizer=normalizer)
    assert contrast(*second) == expected
    resumed = NoiseContrastiveEstimation(2, temperature=0.5)
    resumed.load_state_dict(contrast.state_dict())
    assert resumed(*second) == expected
    # Original and augmented pairs together: each pair's normaliser serves both.
    both = torch.cat([first[0], second[0]], 1), torch.cat([first[1], second[1]], 1)
    torch.testing.assert_close(contrast(*both), contrast(*first) + contrast(*second))
    # A load is looked at anew: an untrained state is estimated again.
    contrast.load_state_dict(NoiseContrastiveEstimation(2, temperature=0.5).state_dict())
    assert contrast(*first) == nce(*first, temperature=0.5, log_normalizer=normalizer)
    with pytest.raises(ValueError, match="2 pairs are no multiple of the 6 that NCE was built for"):
        NoiseContrastiveEstimation(6)(*first)


@pytest.mark.parametrize(
    ("contrast", "message"),
    [
        (partial(unified_contrast, beta=0.0, gamma=0.25), "beta is 0.0: it must be above 0"),
        (partial(unified_contrast_eq8, beta=-2.0, margin=0.1), "beta is -2.0"),
        (partial(unified_contrast_attenuated, beta=math.nan, gamma=0.25, phi=1.0), "beta is nan"),
        (partial(unified_contrast_attenuated, beta=2.0, gamma=0.25, phi=0.5), "phi is 0.5: it must be at least 1"),
        (partial(info_nce, temperature=0.0), "temperature is 0.0"),
        (partial(nce, temperature=-1.0, log_normalizer=LOG_NORMALIZER), "temperature is -1.0"),
        (partial(debiased_info_nce, class_prior=1.0), r"class_prior is 1.0: it must lie in \[0, 1\)"),
        (partial(hard_info_nce, concentration=-1.0), "concentration is -1.0: it must be at least 0"),
    ],
)
def test_settings_out_of_range_are_named(contrast: Contrast, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrast(*similarities())
