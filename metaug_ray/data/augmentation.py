"""Augmentations after decoding: whole batches, on the device, each image by its own draws."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from kornia.color import rgb_to_grayscale
from kornia.enhance import adjust_brightness_accumulative, adjust_hue, adjust_saturation_with_gray_subtraction
from kornia.geometry.transform import rotate
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from metaug_ray.config.augmentation import AugmentationSettings, ColorJitterSettings, RandAugmentSettings
from metaug_ray.data.errors import DataError
from metaug_ray.data.randomness import Draws

_MAGNITUDES = 31
_BLUR_SIGMAS = (0.1, 2.0)
_SOLARIZE_FROM = 128


def augment(images: Tensor, draws: Draws, settings: AugmentationSettings) -> Tensor:
    """Rotation, colour jitter, grey, blur, solarisation, RandAugment and mixup, in this order, where switched on.

    The result for an image depends on its own pixels and draws alone, but for mixup, which adds its neighbour.

    Args:
        images: uint8 [B, 3, H, W], B even where mixup is on.
        draws: of the B images.
        settings: which, and how strong.

    Returns:
        uint8 [B, 3, H, W].
    """
    jitter = settings.color_jitter
    if settings.rotation or jitter or settings.grayscale or settings.blur:
        pixels = images.float() / 255
        if settings.rotation:
            pixels = _rotate(pixels, draws, settings.rotation)
        if jitter:
            pixels = _each_chosen(
                pixels, draws, "jitter", jitter.probability, lambda part, chosen: _jitter(part, chosen, jitter)
            )
        if settings.grayscale:
            pixels = _each_chosen(
                pixels, draws, "grayscale", settings.grayscale, lambda part, _: rgb_to_grayscale(part).expand_as(part)
            )
        if settings.blur:
            pixels = _each_chosen(pixels, draws, "blur", settings.blur, _blur)
        images = _to_uint8(pixels)
    if settings.solarize:
        images = _each_chosen(
            images, draws, "solarize", settings.solarize, lambda part, _: F.solarize(part, _SOLARIZE_FROM)
        )
    if settings.rand_augment:
        images = _rand_augment(images, draws, settings.rand_augment)
    if settings.mixup < 1:
        images = _mixup(images, draws, settings.mixup)
    return images


def check_mixup(settings: AugmentationSettings, batch_size: int) -> None:
    """Raises `DataError` for mixup with an odd batch, whose last image has no neighbour."""
    if settings.mixup < 1 and batch_size % 2:
        raise DataError(f"mixup pairs the images of a worker's batch, and {batch_size} is odd; use an even batch")


def _to_uint8(pixels: Tensor) -> Tensor:
    return (pixels * 255).round_().clamp_(0, 255).to(torch.uint8)


def _values(values: NDArray[np.float64], like: Tensor) -> Tensor:
    """Numbers, of any shape, as float32 on the device of `like`."""
    return torch.from_numpy(values.astype(np.float32)).to(like.device, non_blocking=True)


def _each_chosen(
    images: Tensor, draws: Draws, name: str, probability: float, change: Callable[[Tensor, Draws], Tensor]
) -> Tensor:
    """Changes the images that are drawn, each with this probability."""
    return _changed(images, draws, draws.happens(name, probability), change)


def _changed(
    images: Tensor, draws: Draws, chosen: NDArray[np.bool_], change: Callable[[Tensor, Draws], Tensor]
) -> Tensor:
    """A copy in which the chosen images are changed."""
    if not chosen.any():
        return images
    rows = torch.from_numpy(np.flatnonzero(chosen)).to(images.device, non_blocking=True)
    return images.index_copy(0, rows, change(images.index_select(0, rows), draws.select(chosen)))


def _rotate(pixels: Tensor, draws: Draws, degrees: float) -> Tensor:
    return rotate(pixels, _values(draws.uniform("rotation", -degrees, degrees), pixels))


def _jitter(pixels: Tensor, draws: Draws, settings: ColorJitterSettings) -> Tensor:
    """The four adjustments of torchvision's `ColorJitter`, in an order drawn for each image."""

    def factor(name: str, strength: float, chosen: Draws) -> Tensor:
        return _values(chosen.uniform(f"jitter {name}", max(0.0, 1 - strength), 1 + strength), pixels)

    adjustments: tuple[Callable[[Tensor, Draws], Tensor], ...] = (
        lambda part, chosen: adjust_brightness_accumulative(part, factor("brightness", settings.brightness, chosen)),
        lambda part, chosen: _contrast(part, factor("contrast", settings.contrast, chosen)),
        lambda part, chosen: adjust_saturation_with_gray_subtraction(
            part, factor("saturation", settings.saturation, chosen)
        ),
        lambda part, chosen: adjust_hue(
            part, 2 * math.pi * _values(chosen.uniform("jitter hue", -settings.hue, settings.hue), pixels)
        ),
    )
    order = np.argsort([draws.uniform(f"jitter order {number}") for number in range(len(adjustments))], axis=0)
    for turn in order:
        for number, adjust in enumerate(adjustments):
            pixels = _changed(pixels, draws, turn == number, adjust)
    return pixels


def _contrast(pixels: Tensor, factor: Tensor) -> Tensor:
    """Moves pixels away from or towards their image's mean grey.

    The mean is that of 8-bit levels, summed as integers: a sum of floats would depend, in its last digit, on how many
    images share the batch.
    """
    levels = _to_uint8(rgb_to_grayscale(pixels)).sum((1, 2, 3), dtype=torch.int64, keepdim=True)
    mean = levels / (255 * pixels[0, 0].numel())
    factor = factor.view(-1, 1, 1, 1)
    return (pixels * factor + mean * (1 - factor)).clamp(0, 1)


def _blur(pixels: Tensor, draws: Draws) -> Tensor:
    """Gaussian blur as SimCLR's and BYOL's, its sigma drawn for each image; edges are mirrored, as torchvision does.

    The kernel is a tenth of the side, made odd: 23 pixels at 224, and never less than 3. One axis after the other is a
    sum of shifted images. A convolution with a group for each image, such as kornia's, takes hundreds of times as long
    for small images on a CPU, and on a GPU its last digit may depend on the batch.
    """
    radius = max(1, pixels.shape[-1] // 20)
    sigma = draws.uniform("blur sigma", *_BLUR_SIGMAS)
    half = np.exp(-0.5 * (np.arange(radius + 1) / sigma[:, None]) ** 2)
    half /= half[:, :1] + 2 * half[:, 1:].sum(1, keepdims=True)
    middle, *weights = _values(half, pixels).view(*half.shape, 1, 1, 1).unbind(1)
    for axis, padding in ((2, (0, 0, radius, radius)), (3, (radius, radius, 0, 0))):
        size, padded = pixels.shape[axis], pad(pixels, padding, mode="reflect")
        pixels = padded.narrow(axis, radius, size) * middle
        for distance, weight in enumerate(weights, 1):
            for step in (-distance, distance):
                pixels.addcmul_(padded.narrow(axis, radius + step, size), weight)
    return pixels


def _rand_augment(images: Tensor, draws: Draws, settings: RandAugmentSettings) -> Tensor:
    operations = rand_augment_operations(settings.magnitude, *images.shape[-2:])
    for turn in range(settings.operations):
        number = draws.uniform(f"randaugment operation {turn}", 0, len(operations)).astype(int)
        negative = draws.happens(f"randaugment sign {turn}", 0.5)
        for candidate, apply in enumerate(operations.values()):
            for sign in (1, -1):
                chosen = (number == candidate) & (negative == (sign < 0))
                images = _changed(images, draws, chosen, partial(_apply, apply, sign))
    return images


def _apply(operation: Callable[[Tensor, int], Tensor], sign: int, images: Tensor, draws: Draws) -> Tensor:
    return operation(images, sign)


def rand_augment_operations(magnitude: int, height: int, width: int) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """The operations of torchvision's `RandAugment` at one magnitude.

    Args:
        magnitude: 0 to 30.
        height, width: of the images, in pixels.

    Returns:
        By torchvision's names, functions of (images uint8 [B, 3, H, W], sign 1 or -1). Operations that have no
        direction ignore the sign.
    """
    nearest = InterpolationMode.NEAREST

    def level(least: float, greatest: float) -> float:
        # In float32, as torchvision: thresholds and whole pixels are compared with these.
        return float(torch.linspace(least, greatest, _MAGNITUDES)[magnitude])

    enhance = level(0, 0.9)

    def affine(images: Tensor, translate: list[float] | None = None, shear: list[float] | None = None) -> Tensor:
        # Sheared about the corner, translated by whole pixels, as torchvision's RandAugment does.
        moved: Tensor = F.affine(
            images, 0.0, translate or [0, 0], 1.0, shear or [0.0, 0.0], nearest, center=[0.0, 0.0] if shear else None
        )
        return moved

    def shear_degrees(sign: int) -> float:
        return math.degrees(math.atan(sign * level(0, 0.3)))

    return {
        "Identity": lambda images, sign: images,
        "ShearX": lambda images, sign: affine(images, shear=[shear_degrees(sign), 0.0]),
        "ShearY": lambda images, sign: affine(images, shear=[0.0, shear_degrees(sign)]),
        "TranslateX": lambda images, sign: affine(images, translate=[int(sign * level(0, 150 / 331 * width)), 0]),
        "TranslateY": lambda images, sign: affine(images, translate=[0, int(sign * level(0, 150 / 331 * height))]),
        "Rotate": lambda images, sign: F.rotate(images, sign * level(0, 30), nearest),
        "Brightness": lambda images, sign: F.adjust_brightness(images, 1 + sign * enhance),
        "Color": lambda images, sign: F.adjust_saturation(images, 1 + sign * enhance),
        "Contrast": lambda images, sign: F.adjust_contrast(images, 1 + sign * enhance),
        "Sharpness": lambda images, sign: F.adjust_sharpness(images, 1 + sign * enhance),
        "Posterize": lambda images, sign: F.posterize(images, round(level(8, 4))),
        "Solarize": lambda images, sign: F.solarize(images, 255 * level(1, 0)),
        "AutoContrast": lambda images, sign: F.autocontrast(images),
        "Equalize": lambda images, sign: F.equalize(images),
    }


def _mixup(images: Tensor, draws: Draws, least: float) -> Tensor:
    """Mixes each image with its neighbour in the batch, keeping a share from [least, 1] of itself.

    The share is DACL's (Verma et al., 2021). Images 2 i and 2 i + 1 are each other's neighbours: pairs that a shuffled
    epoch draws anew, and that stay together however the global batch is cut into even parts.
    """
    share = _values(draws.uniform("mixup", least, 1), images).view(-1, 1, 1, 1)
    pixels = images.float()
    neighbours = pixels.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)
    mixed: Tensor = share * pixels + (1 - share) * neighbours
    return mixed.round_().to(torch.uint8)
