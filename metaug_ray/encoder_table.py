"""The encoders by the names that users choose, and what is known of them without PyTorch."""

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias


class EncoderEntry(NamedTuple):
    """Where an encoder is built, and the least side of an image that it takes, in pixels."""

    builder: str
    """Module and name in `metaug_ray.method.encoders`."""
    minimum_size: int
    minimum_size_small_images: int
    """With the stem for small images."""


ENCODERS: Final = {
    "resnet18": EncoderEntry("resnet.resnet18", 1, 1),
    "resnet50": EncoderEntry("resnet.resnet50", 1, 1),
    "conv": EncoderEntry("alexnet.conv", 63, 15),
    "fc": EncoderEntry("alexnet.fc", 63, 15),
}
"""Every encoder by the name that users choose it by."""

if TYPE_CHECKING:
    EncoderName: TypeAlias = str
else:
    EncoderName = Literal[*ENCODERS]
