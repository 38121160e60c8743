"""What pre-training does to an image before the encoders see it."""

from typing import Annotated, Self

from pydantic import Field, model_validator

from metaug_ray.config.base import Probability, Settings

Strength = Annotated[float, Field(ge=0, le=2)]


class ColorJitterSettings(Settings):
    """Random brightness, contrast, saturation and hue, in a random order, as torchvision's `ColorJitter`."""

    probability: Probability = 0.8
    """share of the images that are changed"""
    brightness: Strength = 0.4
    """strength x: a factor from [max(0, 1 - x), 1 + x]"""
    contrast: Strength = 0.4
    """strength x: a factor from [max(0, 1 - x), 1 + x]"""
    saturation: Strength = 0.4
    """strength x: a factor from [max(0, 1 - x), 1 + x]"""
    hue: float = Field(0.1, ge=0, le=0.5)
    """strength x: a turn of the hue circle from [-x, x]"""


class RandAugmentSettings(Settings):
    """RandAugment (Cubuk et al., 2019) with torchvision's fourteen operations and 31 magnitudes."""

    operations: int = Field(2, ge=1, le=14)
    """number of operations applied to each image, one after the other"""
    magnitude: int = Field(9, ge=0, le=30)
    """strength of each operation, 0 to 30"""


class AugmentationSettings(Settings):
    """What pre-training does to an image (the paper's tables 4 and 6); the defaults are CMC's."""

    crop_scale: tuple[float, float] = (0.2, 1.0)
    """least and greatest share of the area that a random resized crop keeps (ImageNet with ResNet: 0.08, 1)"""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """least and greatest width / height of the crop"""
    flip: Probability = 0.5
    """share of the images that are mirrored"""
    rotation: float = Field(0.0, ge=0, le=180)
    """greatest angle in degrees, either way; corners become black"""
    color_jitter: ColorJitterSettings | None = None
    """random colours; off by default"""
    grayscale: Probability = 0.0
    """share of the images that lose their colour"""
    blur: Probability = 0.0
    """share of the images that are blurred by a Gaussian of random width, as SimCLR and BYOL do"""
    solarize: Probability = 0.0
    """share of the images whose values from 128 on are inverted, as BYOL does"""
    rand_augment: RandAugmentSettings | None = None
    """RandAugment; off by default"""
    mixup: float = Field(1.0, ge=0.5, le=1)
    """least share of the image itself when a neighbour is mixed into it (DACL's alpha); 1 switches mixup off"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, (low, high), least, most in (
            ("crop_scale", self.crop_scale, 0.001, 1.0),
            ("crop_ratio", self.crop_ratio, 0.1, 10.0),
        ):
            if not least <= low <= high <= most:
                raise ValueError(f"{name}: got {low}, {high}; expected {least:g} <= least <= greatest <= {most:g}")
        return self
