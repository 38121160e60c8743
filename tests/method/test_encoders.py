import pytest
import torch
import torchvision

from metaug_ray.method.encoders import EncoderName, MultiViewEncoder, build_encoder, unit
from metaug_ray.method.views import VIEW_CHANNELS


@pytest.mark.parametrize(("name", "size"), [("resnet18", 512), ("resnet50", 2048), ("conv", 1152), ("fc", 2048)])
@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_representation_size_follows_the_width(name: EncoderName, size: int, width: float) -> None:
    encoder = build_encoder(name, 2, width=width, small_images=True).eval()
    assert encoder.representation_size == size * width
    with torch.no_grad():
        assert encoder(torch.randn(1, 2, 32, 32)).shape == (1, size * width)


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


def test_alexnet_halves_have_the_papers_channels() -> None:
    convolutions = [m for m in build_encoder("conv", 1).modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [48, 128, 192, 192, 128]
    linears = [m for m in build_encoder("fc", 1).modules() if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(128 * 36, 2048), (2048, 2048)]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "conv", "fc"])
def test_full_size_images(name: EncoderName) -> None:
    encoder = build_encoder(name, 1).eval()
    with torch.no_grad():
        assert encoder(torch.randn(1, 1, 224, 224)).shape == (1, encoder.representation_size)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_resnets_take_32_px_with_either_stem(name: EncoderName) -> None:
    for small_images in (False, True):
        with torch.no_grad():
            assert build_encoder(name, 3, small_images=small_images).eval()(torch.randn(1, 3, 32, 32)).isfinite().all()


@pytest.mark.parametrize("name", ["conv", "fc"])
@pytest.mark.parametrize(("small_images", "minimum"), [(False, 63), (True, 15)])
def test_alexnet_says_what_it_cannot_take(name: EncoderName, small_images: bool, minimum: int) -> None:
    encoder = build_encoder(name, 3, small_images=small_images).eval()
    with torch.no_grad():
        assert encoder(torch.randn(1, 3, minimum, minimum)).isfinite().all()
    with pytest.raises(ValueError, match=f"at least {minimum} px, got {minimum}x{minimum - 1}"):
        encoder(torch.randn(1, 3, minimum, minimum - 1))


def test_unknown_names_and_widths_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown encoder 'vit': choose from resnet18, resnet50, conv, fc"):
        build_encoder("vit", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"width 3 is not one of \(0.5, 1.0, 2.0\)"):
        build_encoder("conv", 3, width=3)


@pytest.mark.parametrize("views", [("rgb", "l", "ab"), ("dbdr", "y")])
def test_multi_view_encoder(views: tuple[str, ...]) -> None:
    encoder = MultiViewEncoder(views, "conv", small_images=True, feature_size=16).eval()
    images = [torch.randn(3, VIEW_CHANNELS[view], 32, 32) for view in views]
    with torch.no_grad():
        representations, features = encoder(images)
        for view, x, h, z in zip(views, images, representations, features, strict=True):
            torch.testing.assert_close(h, encoder.encoders[view](x))
            torch.testing.assert_close(z, unit(encoder.heads[view].linear(h)))
    assert representations.shape == (len(views), 3, encoder.representation_size)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(len(views), 3))


def test_multi_view_encoder_counts_its_inputs() -> None:
    encoder = MultiViewEncoder(("l", "ab"), "conv", small_images=True)
    with pytest.raises(ValueError, match=r"views \('l', 'ab'\), got 1"):
        encoder([torch.randn(2, 1, 32, 32)])
    with pytest.raises(ValueError, match="unknown view"):
        MultiViewEncoder(("l", "hsv"), "conv")


def test_features_are_unit_in_float32_under_autocast() -> None:
    encoder = MultiViewEncoder(("l", "ab"), "conv", small_images=True)
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder([torch.randn(4, 1, 32, 32), torch.randn(4, 2, 32, 32)]).features
    assert features.dtype == torch.float32
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(2, 4), rtol=0, atol=1e-6)
