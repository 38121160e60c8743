"""ResNet encoders: torchvision's, of any width and for any number of channels."""

from functools import partial

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from metaug_ray.method.encoders.encoder import Encoder


class ResNetEncoder(ResNet, Encoder):
    """torchvision's ResNet without its last linear layer, its first convolution taking the view's channels.

    Parameter names are torchvision's, so a width-1 rgb encoder loads into `torchvision.models.resnet50`.

    Args:
        block: torchvision's residual block.
        layers: how many blocks each of the four stages has.
        in_channels: channels of the view.
        width: multiple of all channels.
        small_images: whether the stem is a 3x3 convolution without pooling.
        minimum_size: least side of an image, px.

    Shape: images [B, in_channels, H, W] to representations [B, representation_size].
    """

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        layers: list[int],
        in_channels: int,
        *,
        width: float,
        small_images: bool,
        minimum_size: int,
    ) -> None:
        self.minimum_size = minimum_size
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
        return {name: getattr(self, name) for name in ("layer1", "layer2", "layer3", "layer4")}

    # torchvision has no argument that scales the output channels: its hook that builds a stage is the place to do so.
    def _make_layer(
        self, block: type[BasicBlock | Bottleneck], planes: int, blocks: int, stride: int = 1, dilate: bool = False
    ) -> nn.Sequential:
        if planes == 64:
            self.inplanes = round(64 * self.width)
        stage: nn.Sequential = super()._make_layer(block, round(planes * self.width), blocks, stride, dilate)
        return stage


resnet18 = partial(ResNetEncoder, BasicBlock, [2, 2, 2, 2])
resnet50 = partial(ResNetEncoder, Bottleneck, [3, 4, 6, 3])
