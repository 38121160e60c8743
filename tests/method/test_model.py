from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.method.small import make_bank, make_images, make_model


def test_an_encoder_of_another_kind_is_named() -> None:
    model = replace(make_model(), encoder=nn.Linear(2, 2))
    with pytest.raises(TypeError, match="encoder must be a MultiViewEncoder, plain, compiled or in DDP, got Linear"):
        model.eager_encoder  # noqa: B018 (a property)


def test_it_augments_with_generators_alone() -> None:
    with pytest.raises(ValueError, match="has no generators to augment features with"):
        make_model(generators=False).augment(torch.zeros(2, 3, 32))


def test_parts_compare_like_the_whole() -> None:
    """With batch norm fixed in evaluation mode."""
    model = make_model()
    assert model.generators is not None
    model.encoder.eval()
    model.generators.eval()
    images, sample = make_images(6), make_bank().sample(torch.arange(6), 0)
    whole = model.compare(model.encode(images).features, sample)
    parts = [
        model.compare(model.encode([view[2 * part : 2 * part + 2] for view in images]).features, sample.part(part, 3))
        for part in range(3)
    ]
    joined = type(whole).join([part.detach() for part in parts])
    torch.testing.assert_close(joined, whole.detach(), rtol=1e-12, atol=1e-12)
