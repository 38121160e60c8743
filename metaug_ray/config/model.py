"""The networks that are trained."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from metaug_ray.choices import WIDTHS
from metaug_ray.config.base import Settings
from metaug_ray.encoder_table import ENCODERS, EncoderName
from metaug_ray.view_names import View, encoder_names, encoder_numbers, parse_view, parse_views

Precision = Literal["float32", "bfloat16"]


ViewName = Annotated[str, AfterValidator(lambda name: str(parse_view(name)))]
"""A view's name, in its shortest form."""


class HeadSettings(Settings):
    """The projection heads; the defaults are CMC's. SimCLR's have 2 layers, NNCLR's 3 and output_norm."""

    layers: int = Field(1, ge=1, le=8)
    """linear layers, with batch norm and ReLU between"""
    hidden_size: int = Field(2048, ge=2, le=65_536)
    """units of the layers before the last"""
    output_norm: bool = False
    """put batch norm after the last layer too"""

    @property
    def has_batch_norm(self) -> bool:
        """Whether it needs two images."""
        return self.layers > 1 or self.output_norm


class ModelSettings(Settings):
    """The networks: encoders with a projection head each."""

    views: tuple[ViewName, ...] = ("rgb", "l", "ab")
    """views that are contrasted, at least two: colours of an image (rgb,l,ab is the paper's choice, l,ab and y,dbdr are
    CMC's), or of two crops of it (rgb,rgb.2 is SimCLR's, NNCLR's and MetAug*'s). Views of one colour share an encoder,
    unless one is given another, as in rgb,rgb.2:rgb2"""
    encoder: EncoderName = "resnet50"
    """architecture of each encoder; conv and fc are the halves of a split AlexNet"""
    width: float = 1.0
    """multiple of all channels: 0.5, 1 or 2"""
    small_images: bool = False
    """take a stem that does not shrink the image, for images of 32 to 64 px"""
    feature_size: int = Field(128, ge=2, le=4096)
    """numbers in a feature (the paper's D)"""
    head: HeadSettings = HeadSettings()
    """projection heads"""
    prediction_hidden_size: int = Field(4096, ge=2, le=65_536)
    """hidden units of the prediction heads, which method.targets neighbours has"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        try:
            views = parse_views(self.views)
        except ValueError as error:
            raise ValueError(f"views: {error}") from error
        if len(views) < 2:
            raise ValueError(f"views: contrast needs at least two different views (got {', '.join(self.views)})")
        if self.width not in WIDTHS:
            raise ValueError(f"width: choose 0.5, 1 or 2 (got {self.width:g})")
        return self

    @property
    def parsed_views(self) -> tuple[View, ...]:
        """The views by their parts."""
        return parse_views(self.views)

    @property
    def encoders(self) -> tuple[str, ...]:
        """Names of the encoders."""
        return encoder_names(self.parsed_views)

    @property
    def encoder_numbers(self) -> tuple[int, ...]:
        """For each view, the place of its encoder in :attr:`encoders`."""
        return encoder_numbers(self.parsed_views)

    @property
    def crops(self) -> int:
        """How many crops of an image the views show."""
        return max(view.crop for view in self.parsed_views)

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
