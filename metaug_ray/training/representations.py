"""Representations of images by encoders that are in training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from metaug_ray.method.model import Model
from metaug_ray.method.precision import autocast
from metaug_ray.method.views import split_views


@contextmanager
def frozen_encoder(model: Model) -> Iterator[None]:
    """Let nothing be learnt from what the encoder sees: no gradients, and batch norm by its running statistics."""
    encoder = model.eager_encoder
    training = encoder.training
    encoder.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        encoder.train(training)


def representations(model: Model, images: Tensor) -> Tensor:
    """Representations of all views side by side, float32 [B, V H], of uint8 images [B, 3, S, S]."""
    encoder = model.eager_encoder
    views = split_views(images, encoder.views)
    with autocast(views[0].device, model.autocast):
        found: Tensor = encoder(views).representations
    return found.transpose(0, 1).flatten(1).float()
