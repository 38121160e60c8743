"""The encoders by the names that users choose."""

from importlib import import_module
from typing import Final, Protocol

from metaug_ray import choices, encoder_table
from metaug_ray.encoder_table import EncoderName
from metaug_ray.method.encoders.encoder import Encoder


class Builder(Protocol):
    """Makes the encoder of a view with this many channels; the arguments are those of :func:`build_encoder`."""

    def __call__(self, in_channels: int, *, width: float, small_images: bool, minimum_size: int) -> Encoder: ...


def _builder(place: str) -> Builder:
    module, _, name = place.rpartition(".")
    try:
        builder: Builder = getattr(import_module(f"metaug_ray.method.encoders.{module}"), name)
    except (ImportError, AttributeError) as error:
        raise TypeError(
            f"encoder_table.ENCODERS: there is no {place} in metaug_ray.method.encoders ({error})"
        ) from error
    return builder


BUILDERS: Final = {name: _builder(entry.builder) for name, entry in encoder_table.ENCODERS.items()}
"""What builds each encoder, by its name."""


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
    entry = encoder_table.ENCODERS[name]
    minimum_size = entry.minimum_size_small_images if small_images else entry.minimum_size
    return BUILDERS[name](in_channels, width=width, small_images=small_images, minimum_size=minimum_size)
