"""Views of an image: the crops and colour decompositions that are contrasted (paper, section 4.1)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from metaug_ray.choices import Color
from metaug_ray.view_names import View, parse_view, parse_views

# IEC 61966-2-1 linear sRGB to CIE XYZ, one row each for X, Y and Z.
_XYZ_FROM_RGB = (
    (0.412453, 0.357580, 0.180423),
    (0.212671, 0.715160, 0.072169),
    (0.019334, 0.119193, 0.950227),
)
_D65_WHITE = (0.95047, 1.0, 1.08883)  # CIE 1931 2-degree observer
_YDBDR_FROM_RGB = ((0.299, 0.587, 0.114), (-0.450, -0.883, 1.333), (-1.333, 1.116, 0.217))

_AB_RANGE = 110.0  # sRGB colours reach a in [-86.2, 98.3] and b in [-107.9, 94.5]
_DBDR_RANGE = 1.333


def validate_views(names: Sequence[str]) -> tuple[View, ...]:
    """The views of these names, if they can be contrasted.

    Raises:
        ValueError: see :func:`~metaug_ray.view_names.parse_views`; or there are fewer than two of them.
    """
    views = parse_views(names)
    if len(views) < 2:
        raise ValueError(f"contrast needs at least two views, got {', '.join(map(str, views)) or 'none'}")
    return views


def split_views(crops: Tensor | Sequence[Tensor], views: Sequence[View | str]) -> tuple[Tensor, ...]:
    """The views of RGB images, each normalised to about [-1, 1].

    `l` and `ab` are CIE Lab (D65), `y` and `dbdr` are YDbDr (CMC's two settings).

    Args:
        crops: uint8 sRGB, [B, 3, H, W], on any device: one tensor for each crop of the images, or one alone.
        views: the views, or their names, in the order wanted.

    Returns:
        One float32 tensor [B, C_v, H, W] for each view, in its crop's memory format.

    Raises:
        ValueError: a name is unknown, a view is of a crop that is not there, or a crop is not uint8 [B, 3, H, W].
    """
    crops = (crops,) if isinstance(crops, Tensor) else crops
    wanted = [parse_view(view) if isinstance(view, str) else view for view in views]
    for view in wanted:
        if view.crop > len(crops):
            raise ValueError(f"view {view} is of crop {view.crop}, and the images have {len(crops)}")
    made: dict[tuple[int, Color], Tensor] = {}
    for crop, images in enumerate(crops, 1):
        for color, pixels in _colors(images, {view.color for view in wanted if view.crop == crop}).items():
            made[crop, color] = pixels
    return tuple(made[view.crop, view.color] for view in wanted)


def _colors(images: Tensor, wanted: set[Color]) -> dict[Color, Tensor]:
    """The colour spaces of uint8 sRGB images [B, 3, H, W] that are wanted."""
    if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be uint8 [B, 3, H, W], got {images.dtype} {list(images.shape)}")
    made: dict[Color, Tensor] = {}
    if "rgb" in wanted:
        # Whoever loads the network alone must do the same: its files and its card say so.
        made["rgb"] = (images * (1 / 127.5)).sub_(1.0)
    if "l" in wanted or "ab" in wanted:
        made["l"], made["ab"] = _lab(images)
    if "y" in wanted or "dbdr" in wanted:
        ydbdr = _linear_map(images.float() / 255.0, _YDBDR_FROM_RGB)
        made["y"] = ydbdr[:, :1] * 2.0 - 1.0
        made["dbdr"] = ydbdr[:, 1:] / _DBDR_RANGE
    memory_format = (
        torch.channels_last
        if images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
        else torch.contiguous_format
    )
    return {color: made[color].contiguous(memory_format=memory_format) for color in sorted(wanted)}


def _lab(images: Tensor) -> tuple[Tensor, Tensor]:
    """L / 50 - 1 [B, 1, H, W] and ab / 110 [B, 2, H, W] of CIE Lab, from uint8 sRGB.

    Each pass over a batch costs the reading and writing of it, so there are few, and those in place.
    """
    # A byte has 256 values: a table is exact and spares a power per pixel.
    byte = torch.arange(256, device=images.device, dtype=torch.float32) / 255.0
    linear = torch.where(byte > 0.04045, ((byte + 0.055) / 1.055) ** 2.4, byte / 12.92)
    planes = images.contiguous()
    rgb = linear.index_select(0, planes.view(-1).int()).view_as(planes)
    relative = [[weight / white for weight in row] for row, white in zip(_XYZ_FROM_RGB, _D65_WHITE, strict=True)]
    t = _linear_map(rgb, relative)
    # Lab's linear toe is a tangent of its cube root, so the lower of the two is the right one on either side.
    # exp(log(t) / 3) is a third of the work of a power, and as exact.
    root = t.clamp_min(0.008856).log_().mul_(1.0 / 3.0).exp_()
    f = torch.minimum(root, t.mul_(7.787).add_(16.0 / 116.0), out=t)
    ab = torch.sub(f[:, :2], f[:, 1:])
    ab[:, 0].mul_(500.0 / _AB_RANGE)
    ab[:, 1].mul_(200.0 / _AB_RANGE)
    return f[:, 1:2].mul(116.0 / 50.0).sub_(66.0 / 50.0), ab


def _linear_map(images: Tensor, matrix: Sequence[Sequence[float]]) -> Tensor:
    """Apply a 3x3 colour matrix to [B, 3, H, W]."""
    # Sums of products, not a matmul: autocast and TF32 would round a matmul's inputs past the 0.01 that L must keep.
    red, green, blue = images.unbind(1)
    if torch.compiler.is_exporting():  # written in place, the sums would bind the graph to two images or more
        return torch.stack([(red * r).add_(green, alpha=g).add_(blue, alpha=b) for r, g, b in matrix], 1)
    mapped = torch.empty_like(images)
    for channel, (r, g, b) in zip(mapped.unbind(1), matrix, strict=True):
        torch.mul(red, r, out=channel).add_(green, alpha=g).add_(blue, alpha=b)
    return mapped
