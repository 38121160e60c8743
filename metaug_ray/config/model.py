"""The networks that are trained."""

from typing import Literal, Self

from pydantic import Field, model_validator

from metaug_ray.choices import WIDTHS, View
from metaug_ray.config.base import Settings
from metaug_ray.encoder_table import ENCODERS, EncoderName

Precision = Literal["float32", "bfloat16"]


class ModelSettings(Settings):
    """The networks: one encoder and one projection head per view."""

    views: tuple[View, ...] = ("rgb", "l", "ab")
    """colour views that are contrasted, at least two: rgb,l,ab is the paper's choice, l,ab and y,dbdr are CMC's"""
    encoder: EncoderName = "resnet50"
    """encoder of each view; conv and fc are the halves of a split AlexNet"""
    width: float = 1.0
    """multiple of all channels: 0.5, 1 or 2"""
    small_images: bool = False
    """take a stem that does not shrink the image, for images of 32 to 64 px"""
    feature_size: int = Field(128, ge=2, le=4096)
    """numbers in a feature (the paper's D)"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if len(set(self.views)) != len(self.views) or len(self.views) < 2:
            raise ValueError(f"views: contrast needs at least two different views (got {', '.join(self.views)})")
        if self.width not in WIDTHS:
            raise ValueError(f"width: choose 0.5, 1 or 2 (got {self.width:g})")
        return self

    @property
    def minimum_size(self) -> int:
        """The least side of an image that the encoder takes, in pixels."""
        entry = ENCODERS[self.encoder]
        return entry.minimum_size_small_images if self.small_images else entry.minimum_size

    def one_value_per_channel(self, image_size: int) -> bool:
        """Whether some batch norm sees one value per channel of an image of this side, in pixels, and so needs two
        images."""
        entry = ENCODERS[self.encoder]
        return image_size <= (entry.one_value_up_to_small_images if self.small_images else entry.one_value_up_to)
