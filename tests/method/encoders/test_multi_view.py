import pytest
import torch

from metaug_ray.choices import COLOR_CHANNELS
from metaug_ray.method.encoders import MultiViewEncoder
from metaug_ray.method.unit_vectors import unit


@pytest.mark.parametrize("views", [("rgb", "l", "ab"), ("dbdr", "y")])
def test_multi_view_encoder(views: tuple[str, ...]) -> None:
    encoder = MultiViewEncoder(views, "conv", small_images=True, feature_size=16).eval()
    images = [torch.randn(3, COLOR_CHANNELS[view], 32, 32) for view in views]
    with torch.no_grad():
        representations, features, _ = encoder(images)
        for view, x, h, z in zip(views, images, representations, features, strict=True):
            torch.testing.assert_close(h, encoder.encoders[view](x))
            torch.testing.assert_close(z, unit(encoder.heads[view].linear(h)))
    assert representations.shape == (len(views), 3, encoder.representation_size)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(views), 3))


def test_multi_view_encoder_counts_its_inputs() -> None:
    encoder = MultiViewEncoder(("l", "ab"), "conv", small_images=True)
    with pytest.raises(ValueError, match=r"views l, ab, got 1"):
        encoder([torch.randn(2, 1, 32, 32)])
    with pytest.raises(ValueError, match="unknown view"):
        MultiViewEncoder(("l", "hsv"), "conv")


def test_features_are_unit_in_float32_under_autocast() -> None:
    encoder = MultiViewEncoder(("l", "ab"), "conv", small_images=True)
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder([torch.randn(4, 1, 32, 32), torch.randn(4, 2, 32, 32)]).features
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 4), rtol=0, atol=1e-6)


def test_views_of_two_crops_share_an_encoder_and_its_heads() -> None:
    head = {"layers": 2, "hidden_size": 8, "prediction_hidden_size": 8}
    encoder = MultiViewEncoder(("rgb", "l", "rgb.2"), "conv", small_images=True, feature_size=16, head=head)
    assert list(encoder.encoders) == list(encoder.heads) == ["rgb", "l"]
    images = [torch.randn(4, channels, 32, 32) for channels in (3, 1, 3)]
    output = encoder(images)
    assert output.features.shape == output.projections.shape == (3, 4, 16)
    for place, name in enumerate(("rgb", "l", "rgb")):
        h = encoder.encoders[name](images[place])
        torch.testing.assert_close(output.representations[place], h)
        torch.testing.assert_close((output.features[place], output.projections[place]), encoder.heads[name].compared(h))
