import random

import pytest
from scipy.stats import ttest_rel

from metaug_ray.tuning.comparison import compared, comparison_section, differences
from metaug_ray.tuning.points import Point, TrialRun
from tests.tuning.made_up import point, sweep, trial

JUDGED = "judge/linear/top1"
SETTINGS = sweep(groups={"CMC": {}, "MetAug": {}}, compare={"judge": "/data/judge.beton", "seen": "/data/test.beton"})
POINTS = [point(number, {}, [0.1 * number], group=group) for group in ("CMC", "MetAug") for number in (0, 1)]


def finals(group: str, accuracies: dict[int, float], number: int = 1, name: str = JUDGED) -> list[TrialRun]:
    return [
        trial(group=group, point=number, seed=seed, purpose="compare", judged={name: value})
        for seed, value in accuracies.items()
    ]


def final(**groups: dict[int, float]) -> list[Point]:
    return compared(SETTINGS, POINTS, [run for group, found in groups.items() for run in finals(group, found)])


def test_differences_are_those_of_the_paired_t_test() -> None:
    draws = random.Random(0)
    base = {seed: 0.6 + draws.gauss(0, 0.05) for seed in range(1, 6)}
    other = {seed: value + 0.02 + draws.gauss(0, 0.004) for seed, value in base.items()}
    [found] = differences(final(CMC=base, MetAug=other))
    expected = ttest_rel(list(other.values()), list(base.values())).confidence_interval(0.95)
    assert found.interval is not None
    assert found.interval.mean - found.interval.half_width == pytest.approx(expected.low)
    assert found.interval.mean + found.interval.half_width == pytest.approx(expected.high)
    assert (found.group, found.first, found.pairs, found.shown) == ("MetAug", "CMC", 5, True)


def test_only_seeds_of_both_make_pairs() -> None:
    [found] = differences(final(CMC={1: 0.5, 2: 0.6, 3: 0.9}, MetAug={2: 0.7, 1: 0.6, 4: 0.1}))
    assert found.interval is not None
    assert (found.pairs, found.interval.mean) == (2, pytest.approx(0.1))
    [single] = differences(final(CMC={1: 0.5}, MetAug={1: 0.9}))
    assert (single.pairs, single.shown) == (1, False)
    [none] = differences(final(CMC={1: 0.5}, MetAug={2: 0.9}))
    assert (none.pairs, none.interval, none.shown) == (0, None, False)


def test_says_plainly_what_was_shown() -> None:
    def said(base: dict[int, float], other: dict[int, float]) -> str:
        return comparison_section(SETTINGS, POINTS, finals("CMC", base) + finals("MetAug", other))

    unclear = said({1: 0.5, 2: 0.6, 3: 0.7}, {1: 0.6, 2: 0.5, 3: 0.72})
    assert "The interval contains 0: no difference was shown." in unclear
    assert "better" not in unclear
    better = said({1: 0.5, 2: 0.6, 3: 0.7}, {1: 0.51, 2: 0.612, 3: 0.711})
    assert f"| MetAug | {JUDGED} | +1.10 ± 0.25 | 3 | It is better than CMC. |" in better
    worse = said({1: 0.51, 2: 0.612, 3: 0.711}, {1: 0.5, 2: 0.6, 3: 0.7})
    assert "It is worse than CMC." in worse
    assert f"| {JUDGED} | 61.1 ± 25.0 % | 60.0 ± 24.8 % |" in worse
    assert "One pair has no interval" in said({1: 0.5}, {1: 0.6})


def test_says_who_decided_and_who_judged() -> None:
    text = comparison_section(
        SETTINGS, POINTS, finals("CMC", {1: 0.5}) + finals("MetAug", {1: 0.5}, name="seen/knn/top1")
    )
    assert "seeds 1, which the search did not have" in text
    assert "which point is best are those of `/data/train.beton`." in text
    assert "`/data/judge.beton`, whose labels decided nothing" in text
    assert "`/data/test.beton`. They are called seen" in text
    # The search had seed 0.
    assert "the search had 0 of these" in comparison_section(SETTINGS, POINTS, finals("CMC", {0: 0.5, 1: 0.5}))


def test_equal_means_are_stated_only_where_they_were_equal() -> None:
    runs = finals("CMC", {1: 0.5, 2: 0.5}) + finals("MetAug", {1: 0.5, 2: 0.5})
    same = comparison_section(SETTINGS, POINTS, runs)
    assert "Each group had the same number of points searched (2), seeds of each point (1)" in same
    assert "The groups differ" not in same
    unequal = [*POINTS, point(2, {"training.batch_size": 64}, [0.9], group="MetAug", epochs=3)]
    runs = finals("CMC", {1: 0.5, 2: 0.5}) + finals("MetAug", {1: 0.5}, number=2)
    text = comparison_section(SETTINGS, unequal, runs)
    assert "The groups differ in the number of points searched: CMC had 2 and MetAug had 3." in text
    assert "The groups differ in the epochs of training in the search: CMC had 18 and MetAug had 21." in text
    assert "The groups differ in the seeds of the comparison: CMC had 1 and 2 and MetAug had 1." in text
    assert "The groups differ in the number of images in a step: CMC had 128 and MetAug had 64." in text


def test_runs_of_a_point_that_is_the_best_no_more_are_left_out() -> None:
    old = finals("CMC", {1: 0.9}, number=0)
    [found] = compared(SETTINGS, POINTS, old + finals("CMC", {1: 0.5}))
    assert [run.judged[JUDGED] for run in found.runs] == [0.5]
    assert comparison_section(SETTINGS, POINTS, old) == ""
    assert "Left out, as no best point of theirs has been trained again: MetAug." in comparison_section(
        SETTINGS, POINTS, finals("CMC", {1: 0.5})
    )
