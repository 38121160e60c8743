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
        name: torch.randn(each.shape, generator=random, device=each.device, dtype=each.dtype) * _size(each)
        for name, each in theta.items()
    }
    _compare(encoder, images, theta, direction, WHOLE)
    if parts:
        # In training mode a part's tangents of batch norm's statistics are not those of the whole minibatch.
        with _evaluating(encoder):
            _compare(encoder, images, theta, direction, Part(1, 2))


def _size(parameter: Tensor) -> Tensor:
    """As it moves by its own size, none counts for next to nothing: that of its numbers, or 1 where all are 0."""
    size = parameter.square().mean().sqrt()
    return torch.where(size > 0, size, 1)


def _compare(
    encoder: nn.Module,
    images: Sequence[Tensor],
    theta: dict[str, Tensor],
    direction: dict[str, Tensor],
    part: Part,
) -> None:
    linearization = Linearization(encoder, part)
    with fixed_buffers(encoder):
        # PyTorch's own, which has no line in common with what is compared with it.
        expected = forward_mode(encoder, images, theta, direction, fused=False)
    expected = expected[:, part.rows(expected.shape[1])]
    try:
        with torch.enable_grad(), fixed_buffers(encoder), linearization.recording(images):
            encoder(images)
        found = linearization.tangent(theta, direction)
    except NotImplementedError:
        raise
    except Exception as error:  # the encoder itself ran; what it may call in a way that no rule knows has no end
        raise NotImplementedError(f"{type(error).__name__}: {error}") from error
    wrong = float((found - expected).norm() / expected.norm()) if found.shape == expected.shape else float("inf")
    if not wrong <= _TOLERANCE:
        what, why = "all images", ""
        if part.of > 1:
            what, why = "a part of the images", ", as where norms use a batch's statistics in evaluation too"
        raise NotImplementedError(f"tangents of {what} come out wrong by {wrong:.2g} of their norm{why}")


@contextmanager
def _evaluating(encoder: nn.Module) -> Iterator[None]:
    training = [module for module in encoder.modules() if module.training]
    encoder.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
