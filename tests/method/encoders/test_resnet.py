import pytest
import torch
import torchvision

from metaug_ray.encoder_table import EncoderName
from metaug_ray.method.encoders import build_encoder


def test_rgb_resnet50_is_torchvisions() -> None:
    theirs = torchvision.models.resnet50().eval()
    ours = build_encoder("resnet50", 3).eval()
    unmatched = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert unmatched.missing_keys == []
    assert unmatched.unexpected_keys == ["fc.weight", "fc.bias"]
    theirs.fc = torch.nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize("width", [0.5, 2.0])
def test_width_scales_every_layer(width: float) -> None:
    scaled, plain = build_encoder("resnet50", 3, width=width), build_encoder("resnet50", 3)
    for (name, a), (_, b) in zip(scaled.named_parameters(), plain.named_parameters(), strict=True):
        assert a.shape[0] == b.shape[0] * width, name


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_take_32_px_with_either_stem(name: EncoderName) -> None:
    for small_images in (False, True):
        with torch.no_grad():
            assert build_encoder(name, 3, small_images=small_images).eval()(torch.randn(1, 3, 32, 32)).isfinite().all()
