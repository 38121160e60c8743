import math
from collections import Counter

import numpy as np
import pytest

from metaug_ray.data.permutation import Permutation


def whole(samples: int, seed: int = 0, epoch: int = 0, shard: int = 0) -> list[int]:
    numbers: list[int] = Permutation(samples, seed, epoch, shard)[np.arange(samples)].tolist()
    return numbers


def chi_square(counts: np.ndarray) -> float:
    """In deviations of its own from the mean that it has where all are equally likely."""
    freedom = counts.size - 1
    return float((((counts - counts.mean()) ** 2).sum() / counts.mean() - freedom) / math.sqrt(2 * freedom))


@pytest.mark.parametrize("samples", [1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 1000, 4096, 99_991])
def test_each_number_comes_once(samples: int) -> None:
    assert sorted(whole(samples)) == list(range(samples))


def test_any_part_of_it_is_that_part_of_the_whole() -> None:
    permutation = Permutation(1000, 5, 2)
    some = np.array([[999, 0, 17], [3, 3, 500]])
    assert permutation[some].tolist() == np.array(whole(1000, 5, 2))[some].tolist()


def test_each_seed_epoch_and_shard_has_another_one() -> None:
    orders = {tuple(whole(50, *key)) for key in ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**63 - 1, 9, 9))}
    assert len(orders) == 5


def test_it_is_the_same_everywhere() -> None:
    """Runs that are resumed by a later version depend on it."""
    assert whole(12, seed=3, epoch=1) == [5, 11, 4, 0, 1, 10, 7, 6, 9, 3, 2, 8]
    numbers = Permutation(400_000_000, 3, 1, 2)[np.array([0, 399_999_999])]
    assert numbers.tolist() == [47740642, 31574471]


def test_all_orders_of_four_are_equally_likely() -> None:
    """A network of odd sides, whose turns are all even permutations, misses this by 8 deviations and more."""
    orders = Counter(tuple(whole(4, seed)) for seed in range(2400))
    assert len(orders) == 24
    assert abs(chi_square(np.array(list(orders.values())))) < 4


def test_numbers_are_spread_evenly_over_positions() -> None:
    """In epochs of 1,000 images, each tenth of the positions gets a tenth of each tenth of the images."""
    tenths = np.zeros((10, 10))
    for epoch in range(40):
        tenths += np.histogram2d(np.arange(1000), whole(1000, epoch=epoch), bins=10)[0]
    # Each number comes once an epoch, which leaves 81 of 99 freedoms, and a tenth less deviation.
    assert abs(chi_square(tenths) + (99 - 81) / math.sqrt(2 * 99)) < 4


@pytest.mark.parametrize("distance", [1, 2, 316, 317, 318, 50_000])
def test_neighbours_do_not_move_together(distance: int) -> None:
    """Nor do positions a side of the network apart, which share its right half."""
    numbers = np.array(whole(100_000, seed=1))
    moved = numbers[distance:] - numbers[:-distance]
    correlation = np.corrcoef(numbers[distance:], numbers[:-distance])[0, 1]
    assert abs(correlation) < 4 / math.sqrt(len(moved))
    # All differences of a random permutation are rare; those of a rotation are not.
    assert Counter(moved.tolist()).most_common(1)[0][1] < 12


def test_two_epochs_have_next_to_nothing_in_common() -> None:
    one, two = (np.array(whole(100_000, epoch=epoch)) for epoch in (0, 1))
    assert (one == two).sum() < 8  # one is expected
    assert abs(np.corrcoef(one, two)[0, 1]) < 4 / math.sqrt(100_000)


def test_pairs_of_images_share_batches_as_often_as_by_chance() -> None:
    """Over 100 epochs of 512 images in batches of 64: how often each pair does is a binomial number."""
    together = np.zeros((512, 512), np.float32)
    for epoch in range(100):
        batch = np.empty(512, np.int64)
        batch[whole(512, epoch=epoch)] = np.arange(512) // 64
        chosen = (batch[:, None] == np.arange(8)).astype(np.float32)
        together += chosen @ chosen.T
    pairs = together[np.triu_indices(512, 1)]
    share = 63 / 511
    assert pairs.mean() == pytest.approx(100 * share)
    assert pairs.var() / (100 * share * (1 - share)) == pytest.approx(1, abs=4 * math.sqrt(2 / len(pairs)))
