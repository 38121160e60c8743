from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from metaug_ray.data.errors import DataError
from metaug_ray.data.sources.part import Part, in_part
from metaug_ray.data.sources.record import UNLABELLED
from metaug_ray.data.sources.shapes import Shapes

UNEVEN = np.random.default_rng(0).permutation(np.repeat(np.arange(6), [1, 2, 3, 17, 100, 1000]))


@pytest.mark.parametrize("labels", [UNEVEN, np.full(97, UNLABELLED), np.arange(5)], ids=["labels", "none", "singles"])
@pytest.mark.parametrize("ends", [(0, 0.8, 0.9, 1), (0, 1 / 3, 2 / 3, 1), (0, *np.linspace(0.07, 1, 50).tolist())])
def test_parts_that_meet_are_disjoint_and_everything(labels: NDArray[np.int64], ends: tuple[float, ...]) -> None:
    parts = [in_part(labels, shares) for shares in pairwise(ends)]
    assert (np.sum(parts, axis=0) == 1).all()
    for part, (begin, end) in zip(parts, pairwise(ends), strict=True):
        for label in np.unique(labels):
            ours = labels == label
            assert abs(part[ours].sum() - (end - begin) * ours.sum()) < 1 + 1e-9


def test_each_class_gives_exactly_its_share_where_that_is_whole() -> None:
    labels = np.arange(1000) % 10
    for shares in ((0.0, 0.8), (0.8, 0.9), (0.9, 1.0), (0.07, 0.29)):
        counts = np.bincount(labels[in_part(labels, shares)], minlength=10)
        assert set(counts.tolist()) == {round(100 * (shares[1] - shares[0]))}


def test_small_classes_take_turns() -> None:
    labels = np.repeat(np.arange(100), 4)
    counts = np.bincount(labels[in_part(labels, (0.9, 1.0))], minlength=100)
    assert counts.sum() == 40
    assert set(counts.tolist()) == {0, 1}


def test_the_choice_is_random_and_stays_what_it_was() -> None:
    labels = np.zeros(20_000, np.int64)
    chosen = np.flatnonzero(in_part(labels, (0.4, 0.5)))
    # Even over the list: the mean of 2,000 places of 20,000 has a standard error of 129.
    assert abs(chosen.mean() - 10_000) < 500
    assert np.unique(np.diff(chosen)).size > 10
    # Betons that were made with another version must fit those that are made with this one.
    assert np.flatnonzero(in_part(np.arange(40) % 4, (0.8, 0.9))).tolist() == [11, 24, 29, 30]
    assert np.flatnonzero(in_part(np.full(40, UNLABELLED), (0.8, 0.9))).tolist() == [20, 21, 30, 34]


def test_a_part_is_a_source() -> None:
    whole = Shapes(40, 16)
    part = Part(whole, (0.25, 0.5))
    chosen = in_part(whole.labels, (0.25, 0.5))
    assert [record.name for record in part] == [f"shapes[{index}]" for index in np.flatnonzero(chosen)]
    assert [record.label for record in part] == part.labels.tolist()
    assert len(part) == len(list(part)) == 10
    assert part.classes == whole.classes
    assert part.described == {"part": "0.25,0.5", "part_of": "40"}
    with pytest.raises(DataError, match=r"^source\.part: 0\.5,0\.5001 of 40 images holds none"):
        Part(whole, (0.5, 0.5001))
