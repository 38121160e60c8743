import pytest
import torch

from metaug_ray.encoder_table import EncoderName
from metaug_ray.method.encoders import build_encoder


def test_alexnet_halves_have_the_papers_channels() -> None:
    convolutions = [m for m in build_encoder("conv", 1).modules() if isinstance(m, torch.nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [48, 128, 192, 192, 128]
    linears = [m for m in build_encoder("fc", 1).modules() if isinstance(m, torch.nn.Linear)]
    assert [(m.in_features, m.out_features) for m in linears] == [(128 * 36, 2048), (2048, 2048)]


@pytest.mark.parametrize("name", ["conv", "fc"])
@pytest.mark.parametrize(("small_images", "minimum"), [(False, 63), (True, 15)])
def test_alexnet_says_what_it_cannot_take(name: EncoderName, small_images: bool, minimum: int) -> None:
    encoder = build_encoder(name, 3, small_images=small_images).eval()
    with torch.no_grad():
        assert encoder(torch.randn(1, 3, minimum, minimum)).isfinite().all()
    with pytest.raises(ValueError, match=f"at least {minimum} px, got {minimum}x{minimum - 1}"):
        encoder(torch.randn(1, 3, minimum, minimum - 1))
