"""The encoders by the names that users choose, and what is known of them without PyTorch."""

import sys
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias


class EncoderEntry(NamedTuple):
    """Where an encoder is built, and the least side of an image that it takes, in pixels."""

    builder: str
    """Module and name in `metaug_ray.method.encoders`."""
    minimum_size: int
    minimum_size_small_images: int
    """With the stem for small images."""
    one_value_up_to: int = 0
    """Greatest side, in pixels, of an image that is one value per channel to some batch norm, which then needs two
    images; 0: there is none."""
    one_value_up_to_small_images: int = 0
    """With the stem for small images."""


ENCODERS: Final = {
    "resnet18": EncoderEntry("resnet.resnet18", 1, 1, 32, 8),
    "resnet50": EncoderEntry("resnet.resnet50", 1, 1, 32, 8),
    "conv": EncoderEntry("alexnet.conv", 63, 15, 0, 0),
    "fc": EncoderEntry("alexnet.fc", 63, 15, sys.maxsize, sys.maxsize),  # its linear layers have batch norm
}
"""Every encoder by the name that users choose it by."""

if TYPE_CHECKING:
    EncoderName: TypeAlias = str
else:
    EncoderName = Literal[*ENCODERS]
