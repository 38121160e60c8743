import math
import random
from dataclasses import replace
from statistics import median
from typing import Any

import pytest

from metaug_ray.config.sweep import AshaSettings, SearchSettings
from metaug_ray.tuning.points import Point, TrialRun, best_point, common_epoch
from metaug_ray.tuning.search import draw, importances, is_behind
from metaug_ray.tuning.space import spaces
from tests.tuning.made_up import beta_sweep, point

GREEK = {
    "method.unified.beta": {"log_uniform": [2, 256]},
    "method.unified.gamma": {"uniform": [0.15, 0.5]},
    "method.delta": {"log_uniform": [1e-8, 1e-1]},
}


def bowl(values: dict[str, Any]) -> float:
    """1 at beta 32, gamma 0.3 and delta 1e-3, and less elsewhere."""
    return (
        1
        - 0.1 * math.log2(values["method.unified.beta"] / 32) ** 2
        - 32 * (values["method.unified.gamma"] - 0.3) ** 2
        - 0.08 * math.log10(values["method.delta"] / 1e-3) ** 2
    )


def points_until(kind: str, seed: int, enough: float, most: int = 120) -> list[Point]:
    """A search of the bowl, until a point is good enough."""
    search = SearchSettings.model_validate({"kind": kind, "seed": seed})
    space, points = spaces(beta_sweep(space=GREEK))[""], []
    while len(points) < most and (not points or points[-1].value < enough):
        values = draw(search, space, "", points)
        points.append(point(len(points), values, (bowl(values),), epochs=4))
    return points


def test_tpe_comes_near_a_known_optimum_with_fewer_points_than_random() -> None:
    needed = {kind: median(len(points_until(kind, seed, 0.95)) for seed in range(10)) for kind in ("tpe", "random")}
    print(f"points until within 5 % of the optimum, median of ten seeds: {needed}")
    assert needed["tpe"] < 0.5 * needed["random"]  # measured: 21 and 79


def test_the_same_seed_draws_the_same_points_and_another_one_others() -> None:
    values = [[point.values for point in points_until("tpe", seed, 2.0, most=14)] for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


def test_groups_draw_differently() -> None:
    space = spaces(beta_sweep(space=GREEK))[""]
    assert draw(SearchSettings(), space, "A", []) != draw(SearchSettings(), space, "B", [])


def test_values_that_are_listed_are_drawn_as_they_are_given() -> None:
    choice = {"model.views": {"choice": [["l", "ab"], ["rgb", "l", "ab"]]}, "training.epochs": {"integer": [3, 5]}}
    space = spaces(beta_sweep(space=choice))[""]
    points = []
    for number in range(20):
        values = draw(SearchSettings(), space, "", points)
        points.append(point(number, values, (float(number),), epochs=4))
    assert {repr(point.values["model.views"]) for point in points} == {"['l', 'ab']", "['rgb', 'l', 'ab']"}
    assert {point.values["training.epochs"] for point in points} == {3, 4, 5}


def test_points_that_still_run_failed_or_were_stopped_are_no_values() -> None:
    space = spaces(beta_sweep(space=GREEK))[""]
    points = points_until("tpe", 0, 2.0, most=12)
    states = ("running", "failed", "stopped", "pending")
    odd = [
        replace(points[0], number=12 + n, runs=(replace(points[0].runs[0], state=state, series=((1.0, 9.0),)),))
        for n, state in enumerate(states)
    ]
    assert best_point(points + odd) == best_point(points)
    assert draw(SearchSettings(), space, "", points + odd).keys() == GREEK.keys()
    assert importances(space, points + odd) == importances(space, points)


def test_the_parameter_that_matters_is_the_most_important() -> None:
    points = [
        point(n, values, (-(math.log2(values["method.unified.beta"] / 32) ** 2),), epochs=4)
        for n, values in enumerate(point.values for point in points_until("random", 0, 2.0, most=40))
    ]
    found = importances(spaces(beta_sweep(space=GREEK))[""], points)
    assert sum(found.values()) == pytest.approx(1)
    assert found["method.unified.beta"] > 0.8


def test_importances_look_at_the_last_epoch_that_half_of_the_points_reached() -> None:
    runs = [((1.0, 0.1), (3.0, 0.2), (9.0, 0.3)), ((1.0, 0.1), (3.0, 0.2)), ((1.0, 0.1),)]
    points = [
        Point("", number, {}, (TrialRun(str(number), "", number, 0, series=runs[kind]),))
        for number, kind in enumerate([0] * 4 + [1] * 6 + [2] * 6)
    ]
    assert common_epoch(points) == 3
    assert common_epoch(points[4:]) == 1
    assert common_epoch(points[:7]) is None


def test_importances_need_some_values_that_differ() -> None:
    space = spaces(beta_sweep(space=GREEK))[""]
    assert importances(space, points_until("random", 0, 2.0, most=7)) == {}
    same = [point(n, found.values, (0.5,), epochs=4) for n, found in enumerate(points_until("random", 0, 2.0, most=8))]
    assert importances(space, same) == {}


def at_rung(values: list[list[float]]) -> list[Point]:
    """Points by their runs' values after epoch 2; NaN for a run that is not there yet."""
    return [
        Point(
            "",
            number,
            {},
            tuple(
                TrialRun(f"{number}-{seed}", "", number, seed, series=() if math.isnan(value) else ((2.0, value),))
                for seed, value in enumerate(runs)
            ),
        )
        for number, runs in enumerate(values)
    ]


@pytest.mark.parametrize("seed", range(3))
def test_who_is_behind_at_a_rung_is_who_a_slow_count_says(seed: int) -> None:
    values = random.Random(seed).sample(range(100), 12)
    for factor in (2, 3, 4):
        for count in range(1, 13):
            points = at_rung([[float(value)] for value in values[:count]])
            better = sum(value > values[count - 1] for value in values[:count])
            behind = is_behind(AshaSettings(factor=factor), 2, points[-1], points) is not None
            assert behind == (better >= max(1, count // factor)), (values[:count], factor)


def test_seeds_of_a_point_count_as_their_mean_when_all_are_there() -> None:
    points = at_rung([[0.5, 0.5], [0.9, 0.3], [0.9, math.nan]])
    assert points[1].value_after(2) == pytest.approx(0.6)
    assert is_behind(AshaSettings(factor=2), 2, points[1], points) is None
    assert is_behind(AshaSettings(factor=2), 2, points[2], points) is None
    said = is_behind(AshaSettings(factor=2), 2, points[0], points)
    assert said == "behind after epoch 2: 0.5, where the best 1 of 2 have 0.6"
