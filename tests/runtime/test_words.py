import pytest

from metaug_ray.runtime.words import counted, duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (59.4, "59 s"), (250, "4 min 10 s"), (7500, "2 h 05 min"), (3 * 86400 + 4 * 3600 + 9, "3 d 4 h")],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 images"), (1, "1 image"), (1.0, "1 image"), (2.5, "2.5 images"), (1_281_100, "1,281,100 images")],
)
def test_things_are_counted(count: float, text: str) -> None:
    assert counted(count, "image") == text
