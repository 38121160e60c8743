"""Contrasts by name are the functions with their parameters bound."""

from functools import partial

import pytest
import torch

from metaug_ray.method import contrast
from metaug_ray.method.contrast import Contrast, build_contrast, contrast_names, contrast_parameters
from tests.method.contrast.formulas import similarities

PARAMETERS: dict[str, tuple[dict[str, float | bool], Contrast]] = {
    "unified": (
        {"beta": 8.0, "gamma": 0.3, "centered": True},
        partial(contrast.unified_contrast, beta=8.0, gamma=0.3, centered=True),
    ),
    "unified_eq8": (
        {"beta": 8.0, "margin": 0.1, "centered": False},
        partial(contrast.unified_contrast_eq8, beta=8.0, margin=0.1),
    ),
    "unified_attenuated": (
        {"beta": 8.0, "gamma": 0.3, "phi": 6.0, "centered": False},
        partial(contrast.unified_contrast_attenuated, beta=8.0, gamma=0.3, phi=6.0),
    ),
    "info_nce": ({"temperature": 0.5}, partial(contrast.info_nce, temperature=0.5)),
    "debiased_info_nce": (
        {"temperature": 0.5, "class_prior": 0.2},
        partial(contrast.debiased_info_nce, temperature=0.5, class_prior=0.2),
    ),
    "hard_info_nce": (
        {"temperature": 0.5, "class_prior": 0.2, "concentration": 2.0},
        partial(contrast.hard_info_nce, temperature=0.5, class_prior=0.2, concentration=2.0),
    ),
    "nce": ({"temperature": 0.5}, contrast.NoiseContrastiveEstimation(2, temperature=0.5)),
}


@pytest.mark.parametrize("name", contrast_names())
def test_a_name_and_its_parameters_make_the_contrast(name: str) -> None:
    parameters, expected = PARAMETERS[name]
    assert contrast_parameters(name) == parameters.keys()
    assert torch.equal(build_contrast(name, 2, **parameters)(*similarities()), expected(*similarities()))


def test_parameters_with_a_default_may_be_left_out() -> None:
    assert torch.equal(build_contrast("info_nce", 2)(*similarities()), contrast.info_nce(*similarities()))


def test_wrong_names_and_parameters_are_named() -> None:
    with pytest.raises(ValueError, match="unknown contrast 'triplet': choose from unified, unified_eq8"):
        build_contrast("triplet", 2)
    with pytest.raises(ValueError, match="unknown contrast 'triplet'"):
        contrast_parameters("triplet")
    message = "contrast 'unified' takes beta, centered, gamma and needs beta, gamma: got "
    with pytest.raises(ValueError, match=message + "beta$"):
        build_contrast("unified", 2, beta=16.0)
    with pytest.raises(ValueError, match=message + "beta, gamma, phi"):
        build_contrast("unified", 2, beta=16.0, gamma=0.25, phi=6.0)
    with pytest.raises(ValueError, match="'nce' takes temperature and needs none: got beta"):
        build_contrast("nce", 2, beta=16.0)
