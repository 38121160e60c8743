"""Encoders and heads of all views, run together."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metaug_ray.encoder_table import EncoderName
from metaug_ray.method.encoders.build import build_encoder
from metaug_ray.method.encoders.encoder import EncoderDict
from metaug_ray.method.heads import HeadDict, ProjectionHead
from metaug_ray.method.views import validate_views


class MultiViewOutput(NamedTuple):
    """What :class:`MultiViewEncoder` makes of V views of B images. Unit vectors are float32 (or float64)."""

    representations: Tensor
    """h, [V, B, H]: what downstream tasks use, concatenated over the encoders."""
    features: Tensor
    """e, unit vectors [V, B, D], what the contrast takes: predictions p where there are prediction heads, else z."""
    projections: Tensor
    """z, unit vectors [V, B, D]."""

    def detach(self) -> "MultiViewOutput":
        """The same values without graph."""
        return MultiViewOutput(*(part.detach() for part in self))

    @staticmethod
    def join(parts: Sequence["MultiViewOutput"]) -> "MultiViewOutput":
        """The output of a minibatch from those of its parts."""
        if len(parts) == 1:
            return parts[0]
        return MultiViewOutput(*(torch.cat(each, 1) for each in zip(*parts, strict=True)))


class MultiViewEncoder(nn.Module):
    """Encoders with heads, one of each for each encoder that the views name: the parameters theta and vartheta of the
    paper.

    Views that share an encoder share its heads; each is a forward pass of its own, with its own batch statistics.

    Args:
        views: names of at least two views, in the order of the inputs.
        encoder, width, small_images: arguments of :func:`build_encoder`.
        feature_size: D.
        head: further arguments of :class:`~metaug_ray.method.heads.ProjectionHead`.

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
        head: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.views = validate_views(views)
        self.feature_size = feature_size
        self.encoders = EncoderDict()
        self.heads = HeadDict()
        for view in self.views:
            if view.encoder in self.encoders:
                continue
            f = build_encoder(encoder, view.channels, width=width, small_images=small_images)
            self.encoders[view.encoder] = f
            self.heads[view.encoder] = ProjectionHead(f.representation_size, feature_size, **(head or {}))
            self.representation_size = f.representation_size

    def forward(self, images: Sequence[Tensor]) -> MultiViewOutput:
        """Encode one tensor [B, C_v, H, W] per view, in the order of `self.views`.

        Raises:
            ValueError: another number of inputs than views.
        """
        if len(images) != len(self.views):
            views = ", ".join(map(str, self.views))
            raise ValueError(f"expected one input for each of the views {views}, got {len(images)}")
        representations = [self.encoders[view.encoder](x) for view, x in zip(self.views, images, strict=True)]
        compared = [self.heads[view.encoder].compared(h) for view, h in zip(self.views, representations, strict=True)]
        features, projections = (torch.stack(side) for side in zip(*compared, strict=True))
        return MultiViewOutput(torch.stack(representations), features, projections)
