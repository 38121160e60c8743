"""AlexNet encoders: the halves of a network split over the views, as in the paper."""

from functools import partial

import torch
from torch import Tensor, nn

from metaug_ray.method.encoders.encoder import Encoder


class AlexNetEncoder(Encoder):
    """AlexNet's five convolutional blocks with half their channels: `conv`; with two linear layers more: `fc`.

    The paper splits AlexNet over the views, so a view's encoder has half of its 96/256/384/384/256 channels and of its
    4096 hidden units at width 1. The last maps are pooled to 6x6 (3x3 with the small-image stem), which is their own
    size for 224 px (32 px) images.

    Args:
        in_channels: channels of the view.
        linear_layers: whether the two linear layers follow.
        width: multiple of all channels and hidden units.
        small_images: whether the first convolution is 3x3 with stride 1 in place of 11x11 with stride 4.
        minimum_size: least side of an image, px.

    Shape: images [B, in_channels, H, W] to representations [B, representation_size].
    """

    def __init__(
        self, in_channels: int, *, linear_layers: bool, width: float, small_images: bool, minimum_size: int
    ) -> None:
        super().__init__()
        c1, c2, c3, c4, c5 = (round(channels / 2 * width) for channels in (96, 256, 384, 384, 256))
        hidden = round(4096 / 2 * width)
        stem = (
            nn.Conv2d(in_channels, c1, kernel_size=3, padding=1, bias=False)
            if small_images
            else nn.Conv2d(in_channels, c1, kernel_size=11, stride=4, padding=2, bias=False)
        )
        self.minimum_size = minimum_size
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
                "give larger images, or build it with small_images=True (which takes smaller ones)"
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
        """How much of each of the N positions along a side goes into each cell, [G, N]."""
        grid, length = self.output_size, line.shape[0]  # `len` would fix the size
        position = torch.ones_like(line).cumsum(0) - 1
        cells = [(i * length // grid, -(-(i + 1) * length // grid)) for i in range(grid)]
        return torch.stack(
            [((position >= low) & (position < high)).to(line.dtype) / (high - low) for low, high in cells]
        )


def _normalised(layer: nn.Module, norm: nn.Module) -> list[nn.Module]:
    return [layer, norm, nn.ReLU(inplace=True)]


conv = partial(AlexNetEncoder, linear_layers=False)
fc = partial(AlexNetEncoder, linear_layers=True)
