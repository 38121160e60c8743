"""Whether an encoder's tangents from kept activations are those that forward-mode differentiation makes: tried once,
before the first step, on the encoder that is trained, as not every PyTorch code can be recorded."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn

from metaug_ray.method.buffers import fixed_buffers
from metaug_ray.method.linearization import WHOLE, Linearization, Part
from metaug_ray.method.meta_gradient import trained
from metaug_ray.method.tangents import forward_mode

_TOLERANCE: Final = 0.02
"""Of a tangent's norm: float32 and TF32 stay below, and what is forgotten or taken twice is more."""


def check_linearization(encoder: nn.Module, images: Sequence[Tensor], *, parts: bool) -> None:
    """Compare both ways along a random direction, in the encoder's own precision. A collective call where batch norm is
    synchronised; parameters, buffers and gradients stay as they are.

    Args:
        encoder: whose tangents are to be made.
        images: a few, one tensor [B, C_v, H, W] per view, B even.
        parts: whether tangents of parts of a minibatch are asked for too.

    Raises:
        NotImplementedError: it cannot be recorded, or comes out otherwise.
    """
    random = torch.Generator(images[0].device).manual_seed(0)
    theta = {name: each.detach() for name, each in trained(encoder).items()}
    direction = {
        name: torch.randn(each.shape, generator=random, device=each.device, dtype=each.dtype)
        * each.std(correction=0).clamp(0.01)
        for name, each in theta.items()
    }
    _compare(encoder, images, theta, direction, WHOLE)
    if parts:
        # In training mode a part's tangents of batch norm's statistics are not those of the whole minibatch.
        with _evaluating(encoder):
            _compare(encoder, images, theta, direction, Part(1, 2))


def _compare(
    encoder: nn.Module,
    images: Sequence[Tensor],
    theta: dict[str, Tensor],
    direction: dict[str, Tensor],
    part: Part,
) -> None:
    linearization = Linearization(encoder, part)
    with torch.enable_grad(), fixed_buffers(encoder), linearization.recording(images):
        encoder(images)
    try:
        found = linearization.tangent(theta, direction)
    except RuntimeError as error:
        raise NotImplementedError(str(error)) from error
    with fixed_buffers(encoder):
        expected = forward_mode(encoder, images, theta, direction)
    expected = expected[:, part.rows(expected.shape[1])]
    wrong = float((found - expected).norm() / expected.norm()) if found.shape == expected.shape else float("inf")
    if not wrong <= _TOLERANCE:
        what = "a part of the images" if part.of > 1 else "all images"
        raise NotImplementedError(f"tangents of {what} come out wrong by {wrong:.2g} of their norm")


@contextmanager
def _evaluating(encoder: nn.Module) -> Iterator[None]:
    training = [module for module in encoder.modules() if module.training]
    encoder.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
