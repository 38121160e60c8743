from typing import Literal

import pytest

from metaug_ray.method.choices import check_choice


def test_a_name_that_is_none_of_them_is_named_with_the_others() -> None:
    check_choice("colour", "red", Literal["red", "blue"])
    with pytest.raises(ValueError, match="unknown colour 'rde': choose from red, blue"):
        check_choice("colour", "rde", Literal["red", "blue"])
