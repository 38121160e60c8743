"""Views by their names."""

import pytest

from metaug_ray.view_names import (
    View,
    encoder_names,
    encoder_numbers,
    first_views,
    frozen_views,
    parse_view,
    parse_views,
)


@pytest.mark.parametrize(
    ("name", "view", "shortest"),
    [
        ("rgb", View("rgb"), "rgb"),
        ("rgb.1:rgb", View("rgb"), "rgb"),
        ("ab.2", View("ab", 2, "ab"), "ab.2"),
        ("rgb.2:rgb2", View("rgb", 2, "rgb2"), "rgb.2:rgb2"),
        ("y:l", View("y", 1, "l"), "y:l"),
    ],
)
def test_a_name_says_colour_crop_and_encoder(name: str, view: View, shortest: str) -> None:
    assert parse_view(name) == view
    assert str(view) == shortest
    assert parse_view(shortest) == view


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("RGB",), "unknown view 'RGB'"),
        (("rgb@2",), "unknown view 'rgb@2': give a colour space, with .2 for the second crop"),
        (("cmyk",), "unknown view 'cmyk'"),
        (("rgb.3",), "an image has crops 1 and 2"),
        (("rgb:items",), "an encoder's name is a colour space, or letters that end in digits"),
        (("rgb", "rgb.1"), "view rgb is given 2 times in rgb, rgb"),
        (("rgb", "l.2:rgb"), "views rgb and l.2:rgb share the encoder 'rgb', and have 3 and 1 channels"),
        (("rgb.2", "l.2"), "no view is of the first crop"),
    ],
)
def test_what_cannot_be_is_named(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_views(names)


def test_encoders_are_counted_once_in_the_order_of_their_first_views() -> None:
    views = parse_views(("l", "rgb.2", "rgb", "y.2:l", "rgb:rgb2"))
    assert encoder_names(views) == ("l", "rgb", "rgb2")
    assert encoder_numbers(views) == (0, 1, 1, 0, 2)
    assert first_views(views) == (0, 1, 4)
    assert [str(view) for view in frozen_views(views)] == ["l", "rgb", "rgb:rgb2"]
