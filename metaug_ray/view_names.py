"""Views by the names that users choose: a crop of an image in a colour space, seen by an encoder."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from metaug_ray.choices import COLOR_CHANNELS, Color, check_choice

CROPS: Final = (1, 2)
"""Numbers of the crops of an image."""

_NAME: Final = re.compile(r"([a-z]+)(?:\.(\d+))?(?::([a-z]+\d*))?")
# Whatever ends in a digit is no attribute of a dictionary of modules.
_ENCODER: Final = re.compile(r"[a-z]+\d+")


@dataclass(frozen=True)
class View:
    """A crop of the image in a colour space, seen by an encoder. Views that name the same encoder share it.

    Attributes:
        color: colour space.
        crop: number of the crop, from 1 on.
        encoder: name of the encoder.
    """

    color: Color
    crop: int = 1
    encoder: str = ""

    def __post_init__(self) -> None:
        if not self.encoder:
            object.__setattr__(self, "encoder", self.color)

    @property
    def channels(self) -> int:
        """Of its images."""
        return COLOR_CHANNELS[self.color]

    def __str__(self) -> str:
        """`rgb`; `rgb.2` of the second crop; `rgb.2:rgb2` by another encoder than the colour's own."""
        crop = "" if self.crop == 1 else f".{self.crop}"
        return f"{self.color}{crop}" + ("" if self.encoder == self.color else f":{self.encoder}")


def parse_view(name: str) -> View:
    """The view that a name such as `rgb`, `rgb.2` or `rgb.2:rgb2` stands for.

    Raises:
        ValueError: there is none.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"unknown view {name!r}: give a colour space, with .2 for the second crop, and :NAME for another encoder "
            f"than its own, such as rgb, rgb.2 or rgb.2:rgb2; colour spaces are {', '.join(COLOR_CHANNELS)}"
        )
    color, crop, encoder = match.group(1), int(match.group(2) or 1), match.group(3) or ""
    check_choice("view", color, Color)
    if crop not in CROPS:
        raise ValueError(f"view {name!r}: an image has crops {' and '.join(map(str, CROPS))} (got {crop})")
    if encoder and encoder not in COLOR_CHANNELS and not _ENCODER.fullmatch(encoder):
        raise ValueError(
            f"view {name!r}: an encoder's name is a colour space, or letters that end in digits, such as rgb2"
        )
    return View(cast("Color", color), crop, encoder)


def parse_views(names: Sequence[str]) -> tuple[View, ...]:
    """The views of these names, in their order, if they can be encoded together.

    Raises:
        ValueError: a name is unknown; two views are one crop in one colour space, seen by one encoder; views of
            different channels share an encoder; or no view is of the first crop.
    """
    views = tuple(parse_view(name) for name in names)
    channels: dict[str, View] = {}
    for view in views:
        if views.count(view) > 1:
            raise ValueError(
                f"view {view} is given {views.count(view)} times in {', '.join(map(str, views))}: one crop in one "
                f"colour space, seen by one encoder, is one view; take the second crop ({view.color}.2), another "
                "colour space or another encoder"
            )
        other = channels.setdefault(view.encoder, view)
        if other.channels != view.channels:
            raise ValueError(
                f"views {other} and {view} share the encoder {view.encoder!r}, and have {other.channels} and "
                f"{view.channels} channels: give one of them an encoder of its own"
            )
    if views and all(view.crop != 1 for view in views):
        raise ValueError(f"no view is of the first crop in {', '.join(map(str, views))}: leave .2 out of one")
    return views


def encoder_names(views: Sequence[View]) -> tuple[str, ...]:
    """Encoders of views, each once, in the order of their first views."""
    return tuple(dict.fromkeys(view.encoder for view in views))


def encoder_numbers(views: Sequence[View]) -> tuple[int, ...]:
    """For each view, the place of its encoder in :func:`encoder_names`."""
    names = encoder_names(views)
    return tuple(names.index(view.encoder) for view in views)


def first_views(views: Sequence[View]) -> tuple[int, ...]:
    """For each encoder, the place of the first view that it sees."""
    seen = [view.encoder for view in views]
    return tuple(seen.index(name) for name in encoder_names(views))


def frozen_views(views: Sequence[View]) -> tuple[View, ...]:
    """What each encoder reads of an image when training is over: the image itself, in the colours of its first view."""
    return tuple(View(views[first].color, encoder=views[first].encoder) for first in first_views(views))
