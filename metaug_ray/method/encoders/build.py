"""The encoders by the names that users choose."""

from functools import partial
from typing import Final, Protocol

from torchvision.models.resnet import BasicBlock, Bottleneck

from metaug_ray import choices
from metaug_ray.choices import EncoderName
from metaug_ray.method.encoders.alexnet import AlexNetEncoder
from metaug_ray.method.encoders.encoder import Encoder
from metaug_ray.method.encoders.resnet import ResNetEncoder


class Builder(Protocol):
    """Makes the encoder of a view with this many channels; the arguments are those of :func:`build_encoder`."""

    def __call__(self, in_channels: int, *, width: float, small_images: bool, minimum_size: int) -> Encoder: ...


ENCODERS: Final[dict[EncoderName, Builder]] = {
    "resnet18": partial(ResNetEncoder, BasicBlock, [2, 2, 2, 2]),
    "resnet50": partial(ResNetEncoder, Bottleneck, [3, 4, 6, 3]),
    "conv": partial(AlexNetEncoder, linear_layers=False),
    "fc": partial(AlexNetEncoder, linear_layers=True),
}

choices.check_complete("encoders.build.ENCODERS", ENCODERS, EncoderName)
choices.check_complete("choices.ENCODERS", choices.ENCODERS, EncoderName)


def build_encoder(name: EncoderName, in_channels: int, *, width: float = 1.0, small_images: bool = False) -> Encoder:
    """Build the encoder f_v of one view.

    Args:
        name: `resnet18`, `resnet50`, or the halves of a split AlexNet: `conv`, `fc`.
        in_channels: channels of the view.
        width: multiple of all channels, one of 0.5, 1, 2.
        small_images: whether to replace the stem that shrinks an image by 4 (ResNet: 3x3 convolution and no pooling,
            as is usual for CIFAR; AlexNet: 3x3 convolution of stride 1). Meant for images of 32 to 64 px; AlexNet needs
            it below 63 px.

    Raises:
        ValueError: unknown name, or a width that is none of the three.
    """
    choices.check_choice("encoder", name, EncoderName)
    if width not in choices.WIDTHS:
        raise ValueError(f"encoder width {width} is not one of {choices.WIDTHS}")
    facts = choices.ENCODERS[name]
    minimum_size = facts.minimum_size_small_images if small_images else facts.minimum_size
    return ENCODERS[name](in_channels, width=width, small_images=small_images, minimum_size=minimum_size)
