"""Generated, labelled images for demonstrations and tests: textured objects on cluttered backgrounds, no download.

The class is the outline of the object together with the kind of its texture. Both show in lightness as well as in
colour, and in most crops; position, size, rotation, colours, contrast, polarity, background and noise say nothing of
it.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from metaug_ray.data.sources.record import Record

# Pixels go through operations that IEEE 754 rounds correctly, and nothing else: sines come once per image and in
# float64. A vectorised sine or a product of matrices would differ in the last bit from one machine to the next.
Field = NDArray[np.floating[Any]]

SMALLEST, LARGEST = 16, 512


def _to_nearest(values: Field) -> Field:
    """Distance to the nearest integer."""
    distances: Field = np.abs(values - np.rint(values))
    return distances


def _stripes(u: Field, v: Field, duty: float) -> Field:
    return _to_nearest(u) - duty / 2


def _zigzags(u: Field, v: Field, duty: float) -> Field:
    return (_to_nearest(u + _to_nearest(v)) - duty / 2) * 0.7


def _checks(u: Field, v: Field, duty: float) -> Field:
    a, b = _to_nearest(u) - 0.25, _to_nearest(v) - 0.25
    distances: Field = np.maximum(np.minimum(a, b), -np.maximum(a, b))
    return distances


def _dots(u: Field, v: Field, duty: float) -> Field:
    a, b = _to_nearest(u), _to_nearest(v)
    return np.sqrt(a * a + b * b) - (0.2 + 0.3 * duty)


def _loops(u: Field, v: Field, duty: float) -> Field:
    a, b = _to_nearest(u), _to_nearest(v)
    return np.abs(np.sqrt(a * a + b * b) - 0.3) - _line(duty)


def _pluses(u: Field, v: Field, duty: float) -> Field:
    a, b = _to_nearest(u), _to_nearest(v)
    return np.maximum(np.minimum(a, b) - _line(duty), np.maximum(a, b) - 0.4)


def _bricks(u: Field, v: Field, duty: float) -> Field:
    shifted = _to_nearest(u / 2 + np.floor(v + 0.5) % 2 / 2)
    distances: Field = np.minimum(1 - 2 * shifted, 0.5 - _to_nearest(v)) - _line(duty)
    return distances


def _net(u: Field, v: Field, duty: float) -> Field:
    return np.minimum(_to_nearest(u), _to_nearest(v)) - _line(duty)


def _line(duty: float) -> float:
    """Half the width of a thin line."""
    return 0.05 + 0.14 * duty


def _disc(x: Field, y: Field) -> Field:
    return np.sqrt(x * x + y * y) - 0.8


def _triangle(x: Field, y: Field) -> Field:
    return _polygon(x, y, 3, 0.52)


def _square(x: Field, y: Field) -> Field:
    return np.maximum(np.abs(x), np.abs(y)) - 0.72


def _star(x: Field, y: Field) -> Field:
    return np.minimum(_polygon(x, y, 3, 0.42), _polygon(-x, y, 3, 0.42))


def _ring(x: Field, y: Field) -> Field:
    return np.abs(np.sqrt(x * x + y * y) - 0.62) - 0.3


def _cross(x: Field, y: Field) -> Field:
    a, b = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(a, b) - 0.34, np.maximum(a, b) - 0.95)


def _hexagon(x: Field, y: Field) -> Field:
    return _polygon(x, y, 6, 0.8)


def _crescent(x: Field, y: Field) -> Field:
    bite = x - np.float32(0.55)
    return np.maximum(np.sqrt(x * x + y * y) - 0.95, 0.6 - np.sqrt(bite * bite + y * y))


def _polygon(x: Field, y: Field, sides: int, inner_radius: float) -> Field:
    turns = [2 * math.pi * side / sides for side in range(sides)]
    half_planes = [x * np.float32(math.cos(t)) + y * np.float32(math.sin(t)) for t in turns]
    distances: Field = np.max(half_planes, axis=0) - inner_radius
    return distances


# Signed distances, negative inside: outlines in units of the object's radius, textures in units of their period.
_CLASSES: Final[tuple[tuple[str, Callable[[Field, Field], Field], Callable[[Field, Field, float], Field]], ...]] = (
    ("striped disc", _disc, _stripes),
    ("zigzag triangle", _triangle, _zigzags),
    ("checked square", _square, _checks),
    ("dotted star", _star, _dots),
    ("looped ring", _ring, _loops),
    ("plus-patterned cross", _cross, _pluses),
    ("brick hexagon", _hexagon, _bricks),
    ("netted crescent", _crescent, _net),
)


class Shapes:
    """A source of generated images, balanced over eight classes.

    Args:
        count: number of images.
        size: height and width in pixels.
        seed: another seed gives other images.

    Raises:
        ValueError: fewer images than classes, a size out of [16, 512], or a negative seed.
    """

    classes: tuple[str, ...] = tuple(name for name, _, _ in _CLASSES)

    def __init__(self, count: int, size: int = 64, seed: int = 0) -> None:
        if count < len(self.classes):
            raise ValueError(f"count is {count}: shapes have {len(self.classes)} classes and need an image of each")
        if not SMALLEST <= size <= LARGEST:
            raise ValueError(f"size is {size}: shapes are drawn at {SMALLEST} to {LARGEST} pixels")
        if seed < 0:
            raise ValueError(f"seed is {seed}: it must be at least 0")
        self._count, self._size, self._seed = count, size, seed

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.arange(self._count) % len(self.classes)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Record]:
        for index, label in enumerate(self.labels.tolist()):
            yield Record(f"shapes[{index}]", label, partial(render, self._seed, index, label, self._size))


def render(seed: int, index: int, label: int, size: int) -> NDArray[np.uint8]:
    """Draw an image, uint8 [size, size, 3]: the same for the same arguments, on every machine."""
    rng = np.random.default_rng((seed, index))
    axis = (np.arange(size, dtype=np.float32) + np.float32(0.5)) * np.float32(2 / size) - 1
    center = rng.uniform(-0.3, 0.3, 2).astype(np.float32)
    x, y = axis[None, :] - center[0], axis[:, None] - center[1]
    _, outline, texture = _CLASSES[label]

    radius = rng.uniform(0.75, 1.15)
    mask = np.clip(0.5 - outline(*_turned(rng, x, y, 1 / radius)) * np.float32(radius * size / 2), 0, 1)
    period = rng.uniform(0.28, 0.45)
    u, v = _turned(rng, x, y, 1 / period)
    phase = rng.uniform(0, 1, 2).astype(np.float32)
    pattern = -texture(u + phase[0], v + phase[1], rng.uniform(0.3, 0.7)) * np.float32(size * period)
    pattern = np.clip(pattern, -1, 1)

    # Lightness and hue are drawn one by one: neither tells anything of the other. What both show is the class.
    inside = _colour(rng, (0, 0.25), (0.05, 0.18)) + _colour(rng, (0.15, 0.3), (0.12, 0.2)) * pattern
    lightness_clutter, hue_clutter = _clutter(rng, size), _clutter(rng, size)
    clutter = np.stack([lightness_clutter, hue_clutter, hue_clutter])
    outside = _colour(rng, (0, 0.25), (0.05, 0.18)) + _colour(rng, (0.05, 0.2), (0.05, 0.18)) * clutter
    image = outside + mask * (inside - outside)
    slope = rng.uniform(-0.15, 0.15, 2).astype(np.float32)
    image[0] += slope[0] * x + slope[1] * y
    return _to_rgb(image, rng)


def _turned(rng: np.random.Generator, x: Field, y: Field, scale: float) -> tuple[Field, Field]:
    """Coordinates of a frame that is turned at random, and scaled."""
    angle = rng.uniform(0, 2 * math.pi)
    cos, sin = np.float32(scale * math.cos(angle)), np.float32(scale * math.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _colour(rng: np.random.Generator, lightness: tuple[float, float], saturation: tuple[float, float]) -> Field:
    """Lightness and two opponent colours, [3, 1, 1]: lighter or darker than grey by something in `lightness`, and of
    any hue."""
    sign = 2 * int(rng.integers(2)) - 1
    hue, chroma = rng.uniform(0, 2 * math.pi), rng.uniform(*saturation)
    colour = (sign * rng.uniform(*lightness), chroma * math.cos(hue), chroma * math.sin(hue))
    return np.array(colour, np.float32)[:, None, None]


def _clutter(rng: np.random.Generator, size: int) -> Field:
    """Smooth noise in [-1, 1] of a random scale."""
    cells = int(rng.integers(3, 9))
    # EXACT on uint8 is the interpolation that OpenCV promises to be the same, bit by bit, on every machine.
    noise = cv2.resize(
        rng.integers(0, 256, (cells, cells), dtype=np.uint8), (size, size), interpolation=cv2.INTER_LINEAR_EXACT
    )
    return noise.astype(np.float32) / np.float32(127.5) - 1


def _to_rgb(image: Field, rng: np.random.Generator) -> NDArray[np.uint8]:
    """From [3, size, size] about 0 to noisy uint8 [size, size, 3]."""
    lightness, red, blue = image
    # Y'CbCr of BT.601: a colour changes without its lightness.
    rgb = np.stack([lightness + 1.4 * red, lightness - 0.71 * red - 0.34 * blue, lightness + 1.77 * blue], axis=-1)
    rgb *= 127.5
    rgb += rng.integers(-8, 9, rgb.shape, dtype=np.int8)
    rgb += 127.5
    pixels: NDArray[np.uint8] = np.rint(rgb).clip(0, 255).astype(np.uint8)
    return pixels
