import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from metaug_ray.config import AugmentationSettings, ColorJitterSettings, RandAugmentSettings
from metaug_ray.data.augmentation import augment, check_mixup, rand_augment_operations
from metaug_ray.data.errors import DataError
from metaug_ray.data.randomness import Draws
from tests.data.images import picture

B = 24
EVERYTHING = AugmentationSettings(
    rotation=30,
    color_jitter=ColorJitterSettings(),
    grayscale=0.3,
    blur=0.5,
    solarize=0.3,
    rand_augment=RandAugmentSettings(),
    mixup=0.7,
)
EACH = {
    "rotation": AugmentationSettings(rotation=30),
    "jitter": AugmentationSettings(color_jitter=ColorJitterSettings(probability=0.7)),
    "grayscale": AugmentationSettings(grayscale=0.5),
    "blur": AugmentationSettings(blur=0.5),
    "solarize": AugmentationSettings(solarize=0.5),
    "randaugment": AugmentationSettings(rand_augment=RandAugmentSettings()),
    "mixup": AugmentationSettings(mixup=0.5),
    "everything": EVERYTHING,
}


def images(count: int = B, size: int = 48) -> Tensor:
    stacked = np.stack([picture(row, size, size) for row in range(count)])
    # As the loader has them: a permuted view, channels last.
    return torch.from_numpy(stacked).permute(0, 3, 1, 2)


def draws(count: int = B, epoch: int = 0) -> Draws:
    return Draws(11, epoch, np.arange(count) * 7)


def test_defaults_change_nothing() -> None:
    batch = images()
    assert augment(batch, draws(), AugmentationSettings()) is batch


@pytest.mark.parametrize("name", EACH)
def test_keeps_shape_and_input_and_changes_the_images(name: str) -> None:
    batch = images()
    before = batch.clone()
    result = augment(batch, draws(), EACH[name])
    assert result.shape == batch.shape
    assert result.dtype == torch.uint8
    assert torch.equal(batch, before)
    changed = (result != before).flatten(1).any(1).sum()
    assert changed > B / 4
    assert not torch.equal(augment(batch, draws(epoch=1), EACH[name]), result)


@pytest.mark.parametrize("size", [48, 224])
@pytest.mark.parametrize("name", EACH)
def test_an_image_does_not_depend_on_its_batch(name: str, size: int) -> None:
    batch = images(size=size)
    whole = augment(batch, draws(), EACH[name])
    indices = np.arange(B) * 7
    for parts in ((2, 22), (8, 8, 8), (10, 14)):
        pieces, start = [], 0
        for part in parts:
            rows = slice(start, start + part)
            pieces.append(augment(batch[rows], Draws(11, 0, indices[rows]), EACH[name]))
            start += part
        assert torch.equal(torch.cat(pieces), whole)


def oracle_jitter(image: Tensor, draw: Draws, settings: ColorJitterSettings) -> Tensor:
    """torchvision's four functions on one image, in floats, in the order that was drawn."""
    if not draw.happens("jitter", settings.probability)[0]:
        return image
    pixels = image.float() / 255

    def factor(name: str, strength: float) -> float:
        return float(draw.uniform(f"jitter {name}", max(0, 1 - strength), 1 + strength)[0])

    hue = float(draw.uniform("jitter hue", -settings.hue, settings.hue)[0])
    for turn in np.argsort([draw.uniform(f"jitter order {number}")[0] for number in range(4)]):
        match turn:
            case 0:
                pixels = F.adjust_brightness(pixels, factor("brightness", settings.brightness))
            case 1:
                pixels = F.adjust_contrast(pixels, factor("contrast", settings.contrast))
            case 2:
                pixels = F.adjust_saturation(pixels, factor("saturation", settings.saturation))
            case 3:
                pixels = F.adjust_hue(pixels, hue)
    return (pixels * 255).round().clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("strength", [0.4, 0.8])
def test_color_jitter_against_torchvision(strength: float) -> None:
    settings = ColorJitterSettings(
        probability=0.8, brightness=strength, contrast=strength, saturation=strength, hue=strength / 4
    )
    batch = images()
    result = augment(batch, draws(), AugmentationSettings(color_jitter=settings))
    for row in range(B):
        expected = oracle_jitter(batch[row], Draws(11, 0, np.array([row * 7])), settings)
        difference = (result[row].int() - expected.int()).abs()
        # Grey weights differ in the fourth digit (0.2989 and 0.299), and rounding follows.
        assert difference.float().mean() < 0.5
        assert difference.max() <= 3


def test_every_order_of_the_jitter_comes() -> None:
    wanted = Draws(0, 0, np.arange(2000))
    orders = np.argsort([wanted.uniform(f"jitter order {number}") for number in range(4)], axis=0)
    assert len({tuple(order) for order in orders.T}) == 24


def test_grayscale_against_torchvision() -> None:
    batch = images()
    result = augment(batch, draws(), AugmentationSettings(grayscale=1))
    assert (result.int() - F.rgb_to_grayscale(batch, 3).int()).abs().max() <= 1


@pytest.mark.parametrize(("size", "kernel"), [(16, 3), (32, 3), (48, 5), (224, 23)])
def test_blur_against_torchvision(size: int, kernel: int) -> None:
    batch = torch.randint(0, 256, (B, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    result = augment(batch, draws(), AugmentationSettings(blur=0.7))
    chosen, sigma = draws().happens("blur", 0.7), draws().uniform("blur sigma", 0.1, 2)
    assert 10 < chosen.sum() < B
    for row in range(B):
        expected = F.gaussian_blur(batch[row], [kernel, kernel], [float(sigma[row])]) if chosen[row] else batch[row]
        difference = (result[row].int() - expected.int()).abs()
        assert difference.max() <= 1
        assert (difference > 0).float().mean() < 1e-3  # what lies half-way between two levels


def test_blur_keeps_what_is_even_and_the_mean() -> None:
    noise = torch.randint(0, 256, (8, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    blurred = augment(noise, draws(8), AugmentationSettings(blur=1))
    assert (blurred.float().mean((2, 3)) - noise.float().mean((2, 3))).abs().max() < 2
    assert (blurred.float().var((1, 2, 3)) < 1.01 * noise.float().var((1, 2, 3))).all()
    even = torch.full_like(noise, 77)
    assert torch.equal(augment(even, draws(8), AugmentationSettings(blur=1)), even)


def test_solarize_against_torchvision() -> None:
    batch = images()
    result = augment(batch, draws(), AugmentationSettings(solarize=0.5))
    chosen = draws().happens("solarize", 0.5)
    assert 5 < chosen.sum() < B - 5
    for row in range(B):
        assert torch.equal(result[row], F.solarize(batch[row], 128) if chosen[row] else batch[row])


def test_solarize_inverts_from_128_on() -> None:
    values = torch.tensor([0, 127, 128, 255], dtype=torch.uint8).expand(1, 3, 1, 4)
    assert augment(values, draws(1), AugmentationSettings(solarize=1))[0, 0, 0].tolist() == [0, 127, 127, 0]


def test_blur_follows_grey_and_solarisation_follows_both() -> None:
    batch = images()
    grey, blur, solarize = ({name: 1.0} for name in ("grayscale", "blur", "solarize"))
    together = augment(batch, draws(), AugmentationSettings(**grey, **blur, **solarize))
    blurred = augment(batch, draws(), AugmentationSettings(**grey, **blur))
    assert torch.equal(together, augment(blurred, draws(), AugmentationSettings(**solarize)))
    one_by_one = augment(augment(batch, draws(), AugmentationSettings(**grey)), draws(), AugmentationSettings(**blur))
    assert (blurred.int() - one_by_one.int()).abs().max() <= 1


def test_rotation_against_torchvision() -> None:
    batch = images()
    result = augment(batch, draws(), AugmentationSettings(rotation=45))
    angles = draws().uniform("rotation", -45, 45)
    for row in range(B):
        expected = F.rotate(batch[row], float(angles[row]), InterpolationMode.BILINEAR)
        inner = slice(12, 36)
        assert (result[row, :, inner, inner].int() - expected[:, inner, inner].int()).abs().max() <= 1
        # The corners are black in both; only the edge between is blended differently.
        black, expected_black = ((image == 0).all(0).float().mean().item() for image in (result[row], expected))
        assert black == pytest.approx(expected_black, abs=0.05)


@pytest.mark.parametrize("magnitude", [0, 1, 5, 9, 10, 17, 24, 30])
def test_rand_augment_operations_against_torchvision(magnitude: int) -> None:
    theirs = v2.RandAugment(magnitude=magnitude)
    batch = images(4)
    ours = rand_augment_operations(magnitude, 48, 48)
    assert list(ours) == list(theirs._AUGMENTATION_SPACE)
    for name, (bins, signed) in theirs._AUGMENTATION_SPACE.items():
        values = bins(31, 48, 48)
        for sign in (1, -1):
            value = 0.0 if values is None else float(values[magnitude]) * (sign if signed else 1)
            expected = theirs._apply_image_or_video_transform(batch, name, value, InterpolationMode.NEAREST, {})
            assert torch.equal(ours[name](batch, sign), expected), (name, sign)


def test_rand_augment_applies_what_it_drew() -> None:
    batch = images()
    result = augment(batch, draws(), AugmentationSettings(rand_augment=RandAugmentSettings(operations=3, magnitude=12)))
    operations = list(rand_augment_operations(12, 48, 48).values())
    for row in range(B):
        draw = Draws(11, 0, np.array([row * 7]))
        expected = batch[row : row + 1]
        for turn in range(3):
            number = int(draw.uniform(f"randaugment operation {turn}", 0, 14)[0])
            sign = -1 if draw.happens(f"randaugment sign {turn}", 0.5)[0] else 1
            expected = operations[number](expected, sign)
        assert torch.equal(result[row], expected[0])


def test_mixup_keeps_its_share_of_itself() -> None:
    batch = images()
    result = augment(batch, draws(), AugmentationSettings(mixup=0.6))
    share = draws().uniform("mixup", 0.6, 1)
    for row in range(B):
        expected = share[row] * batch[row].double() + (1 - share[row]) * batch[row ^ 1].double()
        assert (result[row].double() - expected).abs().max() <= 0.51


def test_mixup_needs_pairs() -> None:
    check_mixup(AugmentationSettings(mixup=0.9), 32)
    check_mixup(AugmentationSettings(), 33)
    with pytest.raises(DataError, match="mixup pairs the images of a worker's batch, and 33 is odd; use an even batch"):
        check_mixup(AugmentationSettings(mixup=0.9), 33)
