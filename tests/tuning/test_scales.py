import math

import pytest

from metaug_ray.config.sweep import Parameter
from metaug_ray.tuning.scales import Scale, measured, short_names, value_text


def test_places_go_by_the_logarithm_where_values_span_decades() -> None:
    scale = Scale(Parameter(log_uniform=(1e-8, 1e-2)))
    assert scale.log
    assert scale.place(1e-5) == pytest.approx(0.5)
    assert [text for _, text in scale.ticks()][:3] == ["1e-8", "1e-7", "1e-6"]
    assert Scale(Parameter(grid=(2, 4, 8, 16, 32, 64, 128, 256))).place(16) == pytest.approx(3 / 7)
    even = Scale(Parameter(grid=(0.5, 0.15, 0.25)))
    assert not even.log
    assert even.listed == (0.15, 0.25, 0.5)
    assert not Scale(Parameter(uniform=(-1.0, 1.0))).log
    # Nothing has a logarithm of 0.
    assert not Scale(Parameter(choice=(0, 1e-5, 1e-3))).log


def test_what_is_no_number_has_its_place_in_the_list() -> None:
    scale = Scale(Parameter(choice=("info_nce", "unified", None)))
    assert not scale.numeric
    assert [scale.place(value) for value in ("info_nce", "unified", None)] == [0, 0.5, 1]
    assert [text for _, text in scale.ticks()] == ["info_nce", "unified", "null"]
    assert not Scale(Parameter(choice=(True, False))).numeric
    with pytest.raises(ValueError, match="not in list"):
        scale.place("nothing")


def test_long_lists_have_few_ticks() -> None:
    assert Scale(Parameter(integer=(1, 12))).listed == tuple(range(1, 13))
    assert Scale(Parameter(integer=(1, 1000))).listed is None
    assert len(Scale(Parameter(grid=tuple(range(40)))).ticks(9)) <= 9


def test_texts_are_short() -> None:
    texts = [value_text(value) for value in (1e-13, 0.0001, 0.001, 0.25, 16, 128.0, True, "unified", [1, 2], 2.5e7)]
    assert texts == ["1e-13", "1e-4", "0.001", "0.25", "16", "128", "true", "unified", "[1, 2]", "2.5e7"]
    assert [measured(value) for value in (0.5, 23.42, 123.4, math.nan)] == ["0.500", "23.4", "123", ""]


def test_names_are_as_short_as_they_can_be_told_apart() -> None:
    names = ["method.delta", "method.unified.beta", "method.hard.beta", "beta"]
    assert list(short_names(names).values()) == ["delta", "unified.beta", "hard.beta", "beta"]
