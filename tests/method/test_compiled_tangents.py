from collections.abc import Sequence

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.func import functional_call

from metaug_ray.method.batch_norm import synchronize_batch_norm
from metaug_ray.method.compiled_tangents import CompiledTangents
from metaug_ray.method.encoders import MultiViewEncoder
from metaug_ray.method.precision import autocast


def drawn(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def made(views: Sequence[str], dtype: torch.dtype, **head: int) -> MultiViewEncoder:
    torch.manual_seed(0)
    return MultiViewEncoder(views, "conv", width=0.5, small_images=True, feature_size=8, head=head).to(dtype)


def by_dual_numbers(
    encoder: MultiViewEncoder,
    images: Sequence[Tensor],
    direction: dict[str, Tensor],
    dtype: torch.dtype | None = None,
) -> Tensor:
    theta = dict(encoder.named_parameters())
    with torch.no_grad(), forward_ad.dual_level(), autocast(images[0].device, dtype):
        duals = {name: forward_ad.make_dual(theta[name], tangent) for name, tangent in direction.items()}
        edot: Tensor = forward_ad.unpack_dual(functional_call(encoder, duals, (images,)).features).tangent
    return edot


def case(encoder: MultiViewEncoder, dtype: torch.dtype) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    images = [drawn(6, view.channels, 16, 16, seed=number, dtype=dtype) for number, view in enumerate(encoder.views)]
    theta = {name: parameter.detach() for name, parameter in encoder.named_parameters()}
    direction = {name: p.abs().mean() * drawn(*p.shape, seed=len(name), dtype=dtype) for name, p in theta.items()}
    return images, theta, direction


@pytest.mark.parametrize(
    ("views", "head"),
    [
        (("rgb", "l", "ab"), {}),
        (("rgb", "rgb.2"), {"layers": 2, "hidden_size": 16, "prediction_hidden_size": 16}),
    ],
)
def test_they_are_those_of_dual_numbers(views: Sequence[str], head: dict[str, int]) -> None:
    encoder = made(views, torch.float64, **head)
    images, theta, direction = case(encoder, torch.float64)
    statistics = [buffer.clone() for buffer in encoder.buffers()]
    tangents = CompiledTangents(encoder, backend="aot_eager")
    for factor in (1.0, 2.0):  # at other parameters too, by the graph of the first call
        moved = {name: factor * parameter for name, parameter in theta.items()}
        found = tangents(images, moved, direction)
        torch.testing.assert_close([*encoder.buffers()], statistics, rtol=0, atol=0)
        encoder.load_state_dict(moved, strict=False)
        expected = by_dual_numbers(encoder, images, direction)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        statistics = [buffer.clone() for buffer in encoder.buffers()]


def test_in_bfloat16_they_are_as_near_as_autocast_is() -> None:
    encoder = made(("rgb", "l", "ab"), torch.float32)
    images, theta, direction = case(encoder, torch.float32)
    exact = by_dual_numbers(encoder, images, direction)
    ours = CompiledTangents(encoder, torch.bfloat16, backend="aot_eager")(images, theta, direction)
    autocasts = by_dual_numbers(encoder, images, direction, torch.bfloat16)
    assert 1e-4 < (ours - exact).norm() / exact.norm() <= 1.5 * (autocasts - exact).norm() / exact.norm()


def test_batch_norm_over_ranks_is_refused() -> None:
    encoder = made(("rgb", "l", "ab"), torch.float32)
    synchronize_batch_norm(encoder)
    with pytest.raises(ValueError, match="synchronised batch norm has no compiled tangents"):
        CompiledTangents(encoder)
