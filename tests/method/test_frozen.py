"""Frozen encoders; how they are published is in tests/tracking/test_encoders.py."""

import pytest
import torch

from metaug_ray.method.frozen import FrozenEncoder
from metaug_ray.method.views import split_views

IMAGES = torch.randint(256, (2, 3, 32, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_representations_of_the_views_lie_side_by_side() -> None:
    encoder = FrozenEncoder(("ab", "rgb"), "conv", width=0.5, small_images=True)
    representations = encoder(IMAGES)
    parts = [
        encoder.encoders[view](x) for view, x in zip(encoder.views, split_views(IMAGES, encoder.views), strict=True)
    ]
    torch.testing.assert_close(representations, torch.cat(parts, 1))
    assert representations.shape == (2, encoder.representation_size)
    assert encoder.minimum_size == 15


def test_it_stays_frozen() -> None:
    encoder = FrozenEncoder(("l", "ab"), "resnet18", width=0.5)
    assert encoder.train() is encoder
    assert not any(module.training for module in encoder.modules())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())


def test_wrong_images_are_named() -> None:
    encoder = FrozenEncoder(("l", "ab"), "conv", small_images=True)
    with pytest.raises(TypeError, match="images must be a torch tensor, got ndarray"):
        encoder(IMAGES.numpy())
    with pytest.raises(ValueError, match=r"images must be uint8 \[B, 3, H, W\]"):
        encoder(IMAGES.float())
    with pytest.raises(ValueError, match="at least 15 px, got 32x14"):
        encoder(IMAGES[..., :14])
