"""Encoders f, projection heads g, and the module that runs one of each per view."""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from metaug_ray.method.views import VIEW_CHANNELS, validate_views

EncoderName = Literal["resnet18", "resnet50", "conv", "fc"]

WIDTHS: Final = (0.5, 1.0, 2.0)
"""Width multiples of CMC's ResNet v1, v2 and v3."""


def unit(features: Tensor) -> Tensor:
    """Scale the last dimension to l2 norm 1, in float32 at least: bfloat16 would keep the norm to 1 % only."""
    return F.normalize(features if features.dtype == torch.float64 else features.float(), dim=-1)


class ResNetEncoder(ResNet):
    """torchvision's ResNet without its last linear layer, its first convolution taking the view's channels.

    Parameter names are torchvision's, so a width-1 rgb encoder loads into `torchvision.models.resnet50`.

    Shape: images [B, in_channels, H, W] of any size to representations [B, representation_size].
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: list[int],
        in_channels: int,
        width: float,
        small_images: bool,
    ) -> None:
        self.minimum_size = 1
        self.width = width  # before super().__init__, which calls _make_layer
        super().__init__(block, layers)
        stem = round(64 * width)
        if small_images:
            self.conv1 = nn.Conv2d(in_channels, stem, kernel_size=3, stride=1, padding=1, bias=False)
            self.maxpool = nn.Identity()
        else:
            self.conv1 = nn.Conv2d(in_channels, stem, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bn1 = nn.BatchNorm2d(stem)
        self.representation_size = self.inplanes
        self.fc = nn.Identity()

    @property
    def stages(self) -> dict[str, nn.Module]:
        """Parts whose output maps [B, C, H', W'] a probe may read, from the image on."""
        return {name: getattr(self, name) for name in ("layer1", "layer2", "layer3", "layer4")}

    # torchvision has no argument that scales the output channels: its hook that builds a stage is the place to do so.
    def _make_layer(
        self, block: type[BasicBlock | Bottleneck], planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        if planes == 64:
            self.inplanes = round(64 * self.width)
        stage: nn.Sequential = super()._make_layer(block, round(planes * self.width), blocks, stride, dilate)
        return stage


class AlexNetEncoder(nn.Module):
    """AlexNet's five convolutional blocks with half their channels: `conv`; with two linear layers more: `fc`.

    The paper splits AlexNet over the views, so a view's encoder has half of its 96/256/384/384/256 channels and of its
    4096 hidden units at width 1. The last maps are pooled to 6x6 (3x3 with the small-image stem), which is their own
    size for 224 px (32 px) images.

    Shape: images [B, in_channels, H, W], H and W at least 63 (15 with the small-image stem), to
    [B, representation_size].
    """

    def __init__(self, in_channels: int, *, linear_layers: bool, width: float, small_images: bool) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (round(channels / 2 * width) for channels in (96, 256, 384, 384, 256))
        hidden = round(4096 / 2 * width)
        stem = (
            nn.Conv2d(in_channels, c1, kernel_size=3, padding=1, bias=False)
            if small_images
            else nn.Conv2d(in_channels, c1, kernel_size=11, stride=4, padding=2, bias=False)
        )
        self.minimum_size = 15 if small_images else 63
        grid = 3 if small_images else 6
        self.features = nn.Sequential(
            *_normalised(stem, nn.BatchNorm2d(c1)),
            nn.MaxPool2d(kernel_size=3, stride=2),
            *_normalised(nn.Conv2d(c1, c2, kernel_size=5, padding=2, bias=False), nn.BatchNorm2d(c2)),
            nn.MaxPool2d(kernel_size=3, stride=2),
            *_normalised(nn.Conv2d(c2, c3, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(c3)),
            *_normalised(nn.Conv2d(c3, c4, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(c4)),
            *_normalised(nn.Conv2d(c4, c5, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(c5)),
            nn.MaxPool2d(kernel_size=3, stride=2),
            _GridPool(grid),
            nn.Flatten(),
        )
        self.linear_layers = nn.Sequential()
        self.representation_size = c5 * grid * grid
        if linear_layers:
            self.linear_layers.extend(
                _normalised(nn.Linear(self.representation_size, hidden, bias=False), nn.BatchNorm1d(hidden))
                + _normalised(nn.Linear(hidden, hidden, bias=False), nn.BatchNorm1d(hidden))
            )
            self.representation_size = hidden

    @property
    def stages(self) -> dict[str, nn.Module]:
        """Parts whose outputs a probe may read, from the image on: maps [B, C, H', W'], of linear layers [B, C]."""
        # What follows a ReLU is a pooling, or the next part's.
        activations: list[nn.Module] = [module for module in self.features if isinstance(module, nn.ReLU)]
        hidden: list[nn.Module] = [module for module in self.linear_layers if isinstance(module, nn.ReLU)]
        return {f"conv{i}": module for i, module in enumerate(activations, 1)} | {
            f"linear{i}": module for i, module in enumerate(hidden, 1)
        }

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if min(height, width) < self.minimum_size:
            raise ValueError(
                f"this AlexNet encoder needs images of at least {self.minimum_size} px, got {height}x{width}: "
                "give larger images, or build it with small_images=True (which takes 15 px and more)"
            )
        representations: Tensor = self.linear_layers(self.features(images))
        return representations


class _GridPool(nn.AdaptiveAvgPool2d):
    """Average pooling of maps [B, C, H, W] of any size to [B, C, G, G], which `torch.export` keeps open to any size."""

    output_size: int

    def forward(self, maps: Tensor) -> Tensor:
        if not torch.compiler.is_exporting():
            return super().forward(maps)
        # Exported, the operator itself is bound to the example's size, and a matrix product to maps of 2x2 or more.
        across = (maps.unsqueeze(3) * self._shares(maps[0, 0, 0, :])).sum(4)
        return (across.unsqueeze(2) * self._shares(maps[0, 0, :, 0]).unsqueeze(2)).sum(3)

    def _shares(self, line: Tensor) -> Tensor:
        """[G, N]: how much of each of the N positions along a side goes into each cell."""
        grid, length = self.output_size, line.shape[0]  # `len` would fix the size
        position = torch.ones_like(line).cumsum(0) - 1
        cells = [(i * length // grid, -(-(i + 1) * length // grid)) for i in range(grid)]
        return torch.stack(
            [((position >= low) & (position < high)).to(line.dtype) / (high - low) for low, high in cells]
        )


def _normalised(layer: nn.Module, norm: nn.Module) -> list[nn.Module]:
    return [layer, norm, nn.ReLU(inplace=True)]


def build_encoder(
    name: EncoderName, in_channels: int, *, width: float = 1.0, small_images: bool = False
) -> ResNetEncoder | AlexNetEncoder:
    """Build the encoder f_v of one view.

    Args:
        name: `resnet18`, `resnet50`, or the halves of a split AlexNet: `conv`, `fc`.
        in_channels: channels of the view.
        width: multiple of all channels, one of 0.5, 1, 2.
        small_images: replace the stem that shrinks an image by 4 (ResNet: 3x3 convolution and no pooling, as is usual
            for CIFAR; AlexNet: 3x3 convolution of stride 1). Meant for images of 32 to 64 px; AlexNet needs it below 63
            px.

    Raises:
        ValueError: unknown name, or a width that is none of the three.
    """
    if width not in WIDTHS:
        raise ValueError(f"encoder width {width} is not one of {WIDTHS}")
    match name:
        case "resnet18":
            return ResNetEncoder(BasicBlock, [2, 2, 2, 2], in_channels, width, small_images)
        case "resnet50":
            return ResNetEncoder(Bottleneck, [3, 4, 6, 3], in_channels, width, small_images)
        case "conv" | "fc":
            return AlexNetEncoder(in_channels, linear_layers=name == "fc", width=width, small_images=small_images)
    raise ValueError(f"unknown encoder {name!r}: choose from {', '.join(get_args(EncoderName))}")


class ProjectionHead(nn.Module):
    """Projection head g_v: one linear layer, then l2 normalisation. [B, H] to unit features [B, D]."""

    def __init__(self, representation_size: int, feature_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(representation_size, feature_size)

    def forward(self, representations: Tensor) -> Tensor:
        return unit(self.linear(representations))


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
        encoder, width, small_images: see :func:`build_encoder`.
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
        self.encoders = nn.ModuleDict()
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
