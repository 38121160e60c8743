"""What is left of a run when it is over: its encoders, frozen."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from metaug_ray.encoder_table import EncoderName
from metaug_ray.method.encoders import EncoderDict, build_encoder
from metaug_ray.method.views import split_views
from metaug_ray.view_names import frozen_views, parse_views


class FrozenEncoder(nn.Module):
    """Encoders f without heads, in evaluation mode, with the split into colour spaces inside.

    It stays in evaluation mode when :meth:`train` is called, as batch norm's statistics are part of what was learnt,
    and its parameters take no gradient. To fine-tune one, load `encoders[name].state_dict()` into a network of
    your own.

    Args:
        views: names of the views that were trained. Each encoder reads the image itself in the colours of its first
            view; representations are concatenated in the encoders' order.
        encoder, width, small_images: arguments of :func:`~metaug_ray.method.encoders.build_encoder`.

    Attributes:
        views: what each encoder reads, by the names of views.
        encoders: each :class:`~metaug_ray.method.encoders.Encoder` by its name.
        representation_size: E * H, numbers in an image's representation, of E encoders.
        minimum_size: least side of an image that it takes, px.

    Shape: uint8 sRGB images [B, 3, H, W] to float32 representations [B, E * H].

    Raises:
        ValueError: unknown views, encoder or width.
    """

    def __init__(
        self, views: Sequence[str], encoder: EncoderName, *, width: float = 1.0, small_images: bool = False
    ) -> None:
        super().__init__()
        reads = frozen_views(parse_views(views))
        self.views = tuple(map(str, reads))
        self.encoders = EncoderDict()
        self.representation_size = 0
        self.minimum_size = 1
        for view in reads:
            f = build_encoder(encoder, view.channels, width=width, small_images=small_images)
            self.encoders[view.encoder] = f
            self.representation_size += f.representation_size
            self.minimum_size = max(self.minimum_size, f.minimum_size)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "FrozenEncoder":
        """Does nothing."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Representations h, the encoders' side by side.

        Raises:
            TypeError: `images` is no tensor.
            ValueError: `images` is not uint8 [B, 3, H, W], or smaller than the encoder takes.
        """
        if not isinstance(images, Tensor):
            raise TypeError(f"images must be a torch tensor, got {type(images).__name__}; torch.from_numpy makes one")
        # An exported graph is bound to the memory layout of its example; images often come as permuted [B, H, W, 3].
        views = split_views(images.clone(memory_format=torch.contiguous_format), self.views)
        return torch.cat([f(view) for f, view in zip(self.encoders.values(), views, strict=True)], 1)
