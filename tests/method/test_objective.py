"""The composition of losses; their reference values are in test_vectors."""

from functools import partial

import pytest
import torch

from metaug_ray.method.contrast import info_nce, unified_contrast
from metaug_ray.method.objective import Objective
from metaug_ray.method.similarities import Similarities


def similarities(seed: int) -> Similarities:
    generator = torch.Generator().manual_seed(seed)
    return Similarities(
        torch.rand(3, 2, generator=generator, dtype=torch.float64),
        torch.rand(3, 2, 5, generator=generator, dtype=torch.float64),
    )


@pytest.mark.parametrize("name", ["delta", "alpha"])
def test_weights_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is -1"):
        Objective(info_nce, **{name: -1.0})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown margin kind 'lrage'"):
        Objective(info_nce, margin="lrage")  # type: ignore[arg-type]


def test_generators_minimise_the_encoders_objective_and_the_regulariser() -> None:
    objective = Objective(partial(unified_contrast, beta=16.0, gamma=0.25), delta=0.1, alpha=0.3, margin="small")
    original, augmented = similarities(0), similarities(1)
    losses = objective(original, augmented)
    together = objective.contrast(
        torch.cat([original.positives, augmented.positives], 1), torch.cat([original.negatives, augmented.negatives], 1)
    )
    assert losses.augmented == together
    torch.testing.assert_close(losses.total, losses.original + 0.1 * together, rtol=1e-14, atol=0)
    regularization = objective.regularization(original, augmented)
    assert regularization > 0
    expected = losses.total + 0.3 * regularization
    torch.testing.assert_close(objective.generator_objective(losses, original, augmented), expected, rtol=1e-14, atol=0)


def test_without_generators_it_is_the_contrast_alone() -> None:
    objective = Objective(info_nce, delta=0.1, alpha=0.3)
    original = similarities(0)
    losses = objective(original, None)
    assert losses.total == losses.original == info_nce(*original)
    assert losses.augmented == 0
    assert objective.generator_objective(losses, original, None) == losses.total


def test_encoders_may_be_regularised_too() -> None:
    contrast, original, augmented = partial(unified_contrast, beta=16.0, gamma=0.25), similarities(0), similarities(1)
    plain = Objective(contrast, delta=0.1, alpha=0.3, margin_scope="anchor")
    both = Objective(contrast, delta=0.1, alpha=0.3, margin_scope="anchor", regularize_encoders=True)
    losses = both(original, augmented)
    # Encoders minimise what generators do, which stays the same.
    expected = plain.generator_objective(plain(original, augmented), original, augmented)
    assert expected > plain(original, augmented).total
    torch.testing.assert_close(losses.total, expected, rtol=1e-14, atol=0)
    assert both.generator_objective(losses, original, augmented) == losses.total
    assert both(original, None).total == contrast(*original)
