import math
from itertools import pairwise

import pytest

from metaug_ray.config.training import ScheduleSettings
from metaug_ray.training.schedule import learning_rate_factor


def factors(schedule: ScheduleSettings, steps_per_epoch: int, epochs: int) -> list[float]:
    return [learning_rate_factor(schedule, step, steps_per_epoch, epochs) for step in range(steps_per_epoch * epochs)]


def test_steps() -> None:
    schedule = ScheduleSettings(kind="step", milestones=(2, 3), decay=0.1)
    assert factors(schedule, 2, 5) == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01, 0.01])


def test_cosine_after_a_warm_up() -> None:
    schedule = ScheduleSettings(kind="cosine", warmup_epochs=2, final=0.2)
    found = factors(schedule, 4, 10)
    assert found[:8] == pytest.approx([i / 9 for i in range(1, 9)])
    expected = [0.2 + 0.8 * (1 + math.cos(math.pi * i / 32)) / 2 for i in range(32)]
    assert found[8:] == pytest.approx(expected)
    assert found[8] == 1.0
    assert all(a > b for a, b in pairwise(found[8:]))


def test_constant_and_a_warm_up_of_part_of_an_epoch() -> None:
    schedule = ScheduleSettings(kind="constant", warmup_epochs=0.5)
    assert factors(schedule, 6, 1) == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
