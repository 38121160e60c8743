"""Representations of images by encoders that are in training."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from metaug_ray.method.model import Model
from metaug_ray.method.precision import autocast
from metaug_ray.method.views import split_views
from metaug_ray.view_names import frozen_views


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
    """Representations of all encoders side by side, float32 [B, E H], of uint8 images [B, 3, S, S]."""
    encoders = model.eager_encoder.encoders
    views = frozen_views(model.eager_encoder.views)
    with autocast(images.device, model.autocast):
        found = [encoders[view.encoder](image) for view, image in zip(views, split_views(images, views), strict=True)]
    return torch.cat(found, 1).float()
