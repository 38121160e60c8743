"""One encoder and one projection head per view, run together."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from metaug_ray.choices import VIEW_CHANNELS
from metaug_ray.encoder_table import EncoderName
from metaug_ray.method.encoders.build import build_encoder
from metaug_ray.method.encoders.encoder import EncoderDict
from metaug_ray.method.heads import ProjectionHead
from metaug_ray.method.views import validate_views


class MultiViewOutput(NamedTuple):
    """What :class:`MultiViewEncoder` makes of V views of B images."""

    representations: Tensor
    """h, [V, B, H]: what downstream tasks use, concatenated over the views."""
    features: Tensor
    """z, [V, B, D], float32 (or float64) of l2 norm 1: what the contrast uses."""


class MultiViewEncoder(nn.Module):
    """One encoder and one projection head per view: the parameters theta and vartheta of the paper.

    Args:
        views: view names, at least two, in the order of the inputs.
        encoder, width, small_images: arguments of :func:`build_encoder`.
        feature_size: D.

    Raises:
        ValueError: see :func:`~metaug_ray.method.views.validate_views` and :func:`build_encoder`.
    """

    def __init__(
        self,
        views: Sequence[str],
        encoder: EncoderName = "resnet50",
        *,
        width: float = 1.0,
        small_images: bool = False,
        feature_size: int = 128,
    ) -> None:
        super().__init__()
        self.views = validate_views(views)
        self.feature_size = feature_size
        self.encoders = EncoderDict()
        self.heads = nn.ModuleDict()
        for view in self.views:
            f = build_encoder(encoder, VIEW_CHANNELS[view], width=width, small_images=small_images)
            self.encoders[view] = f
            self.heads[view] = ProjectionHead(f.representation_size, feature_size)
            self.representation_size = f.representation_size

    def forward(self, images: Sequence[Tensor]) -> MultiViewOutput:
        """Encode one tensor [B, C_v, H, W] per view, in the order of `self.views`.

        Raises:
            ValueError: another number of inputs than views.
        """
        if len(images) != len(self.views):
            raise ValueError(f"expected one input for each of the views {self.views}, got {len(images)}")
        representations = [f(x) for f, x in zip(self.encoders.values(), images, strict=True)]
        features = [g(h) for g, h in zip(self.heads.values(), representations, strict=True)]
        return MultiViewOutput(torch.stack(representations), torch.stack(features))
