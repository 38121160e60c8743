"""Encoders by name, and the protocol that each of them keeps."""

from typing import get_args

import pytest
import torch
from torch.fx.experimental import _config as export_settings

from metaug_ray.encoder_table import ENCODERS, EncoderName
from metaug_ray.method.encoders import Encoder, build_encoder


@pytest.mark.parametrize(("name", "size"), [("resnet18", 512), ("resnet50", 2048), ("conv", 1152), ("fc", 2048)])
@pytest.mark.parametrize("width", [0.5, 1.0, 2.0])
def test_representation_size_follows_the_width(name: EncoderName, size: int, width: float) -> None:
    encoder = build_encoder(name, 2, width=width, small_images=True).eval()
    assert encoder.representation_size == size * width
    with torch.no_grad():
        assert encoder(torch.randn(1, 2, 32, 32)).shape == (1, size * width)


@pytest.mark.parametrize("name", get_args(EncoderName))
def test_full_size_images(name: EncoderName) -> None:
    encoder = build_encoder(name, 1).eval()
    with torch.no_grad():
        assert encoder(torch.randn(1, 1, 224, 224)).shape == (1, encoder.representation_size)


@pytest.mark.parametrize("name", get_args(EncoderName))
@pytest.mark.parametrize("small_images", [False, True])
def test_it_takes_images_from_its_minimum_size_on(name: EncoderName, small_images: bool) -> None:
    encoder = build_encoder(name, 3, width=0.5, small_images=small_images).eval()
    facts = ENCODERS[name]
    least = facts.minimum_size_small_images if small_images else facts.minimum_size
    assert isinstance(encoder, Encoder)
    assert encoder.minimum_size == least
    with torch.no_grad():
        assert encoder(torch.randn(2, 3, least, least + 1)).shape == (2, encoder.representation_size)


@pytest.mark.parametrize("name", get_args(EncoderName))
def test_a_probe_may_read_its_stages(name: EncoderName) -> None:
    encoder = build_encoder(name, 1, width=0.5, small_images=True).eval()
    read: dict[str, torch.Size] = {}
    for stage, module in encoder.stages.items():
        module.register_forward_hook(lambda _module, _inputs, output, stage=stage: read.update({stage: output.shape}))
    with torch.no_grad():
        encoder(torch.randn(2, 1, 32, 32))
    assert list(read) == list(encoder.stages)  # from the image on
    for shape in read.values():
        assert shape[0] == 2
        assert len(shape) in (2, 4)


@pytest.mark.slow
@pytest.mark.parametrize("name", get_args(EncoderName))
@pytest.mark.parametrize("small_images", [False, True])
def test_its_exported_graph_takes_any_number_and_size(name: EncoderName, small_images: bool) -> None:
    torch.manual_seed(0)
    encoder = build_encoder(name, 1, width=0.5, small_images=small_images).eval().requires_grad_(False)
    dynamic = torch.export.Dim.DYNAMIC
    with export_settings.patch(backed_size_oblivious=True):
        exported = torch.export.export(
            encoder, (torch.randn(2, 1, 70, 70),), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},)
        ).module()
    least = max(encoder.minimum_size, 2)
    for shape in ((3, 1, 70, 70), (1, 1, least, least), (1, 1, least + 65, least), (5, 1, 64, 97)):
        images = torch.randn(shape)
        torch.testing.assert_close(exported(images), encoder(images), rtol=1e-4, atol=1e-5)


def test_unknown_names_and_widths_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown encoder 'vit': choose from resnet18, resnet50, conv, fc"):
        build_encoder("vit", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"width 3 is not one of \(0.5, 1.0, 2.0\)"):
        build_encoder("conv", 3, width=3)
