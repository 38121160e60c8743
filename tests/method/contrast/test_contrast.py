"""What holds for every contrast: its formula, in value and gradient, and what it takes."""

import math
from functools import partial

import pytest
import torch

from metaug_ray.method.contrast import (
    Contrast,
    debiased_info_nce,
    hard_info_nce,
    info_nce,
    nce,
    unified_contrast,
    unified_contrast_attenuated,
    unified_contrast_eq8,
)
from tests.method.contrast.formulas import CONTRASTS, LOG_NORMALIZER, similarities


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
