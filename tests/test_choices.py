from typing import Literal

import pytest

from metaug_ray.choices import check_choice, check_complete

Colour = Literal["red", "blue"]


def test_a_name_that_is_none_of_them_is_named_with_the_others() -> None:
    check_choice("colour", "red", Colour)
    with pytest.raises(ValueError, match="unknown colour 'rde': choose from red, blue"):
        check_choice("colour", "rde", Colour)


@pytest.mark.parametrize(("keys", "named"), [(("red",), "blue"), (("red", "blue", "green"), "green")])
def test_a_table_that_lacks_a_name_or_has_one_more_is_refused(keys: tuple[str, ...], named: str) -> None:
    check_complete("colours", ("blue", "red"), Colour)
    with pytest.raises(TypeError, match=f"colours and its names differ in {named}"):
        check_complete("colours", keys, Colour)
