import zlib

import numpy as np
import pytest
from scipy import stats

from metaug_ray.data.randomness import Draws

N = 20_000
MASK = (1 << 64) - 1


def mix(x: int) -> int:
    """SplitMix64 in Python's own integers."""
    x = (x + 0x9E3779B97F4A7C15) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def test_mixes_as_splitmix64_does() -> None:
    seed, epoch, index = 7, 3, 41
    stream = mix((mix((mix(seed) + epoch) & MASK) + zlib.crc32(b"flip")) & MASK)
    expected = (mix((stream + index * 0x9E3779B97F4A7C15) & MASK) >> 11) / 2**53
    assert Draws(seed, epoch, np.array([40, index])).uniform("flip")[1] == expected


def test_another_crop_has_a_key_of_its_own() -> None:
    key = mix((mix((mix(7) + 3) & MASK) + (1 << 32)) & MASK)
    expected = (mix((mix((key + zlib.crc32(b"flip")) & MASK) + 41 * 0x9E3779B97F4A7C15) & MASK) >> 11) / 2**53
    assert Draws(7, 3, np.array([40, 41]), crop=1).uniform("flip")[1] == expected
    assert Draws(7, 3, np.array([41]), crop=1).select(np.array([True])).uniform("flip")[0] == expected
    assert Draws(7, 3, np.array([41]), crop=0).uniform("flip")[0] == Draws(7, 3, np.array([41])).uniform("flip")[0]


# The first outputs of SplitMix64 from state 1234567, as published with its reference implementation.
@pytest.mark.parametrize(("state", "output"), [(1234567, 6457827717110365317), (0, 0xE220A8397B1DCDAF)])
def test_the_oracle_is_splitmix64(state: int, output: int) -> None:
    assert mix(state) == output


def test_depends_on_seed_epoch_name_index_and_crop_alone() -> None:
    indices = np.arange(N)
    numbers = Draws(1, 2, indices).uniform("flip")
    order = np.random.default_rng(0).permutation(N)
    assert np.array_equal(Draws(1, 2, indices[order]).uniform("flip"), numbers[order])
    assert np.array_equal(Draws(1, 2, indices[5:9]).uniform("flip"), numbers[5:9])
    chosen = numbers < 0.3
    assert np.array_equal(Draws(1, 2, indices).select(chosen).uniform("flip"), numbers[chosen])
    others = (Draws(0, 2, indices), Draws(1, 3, indices), Draws(2, 1, indices), Draws(1, 2, indices, crop=1))
    for other in (*(draws.uniform("flip") for draws in others), Draws(1, 2, indices).uniform("crop")):
        assert not np.isclose(other, numbers).any() or np.mean(np.isclose(other, numbers)) < 1e-3
        assert abs(np.corrcoef(other, numbers)[0, 1]) < 4 / np.sqrt(N)


def test_numbers_are_uniform() -> None:
    numbers = Draws(0, 0, np.arange(N)).uniform("flip", -2, 3)
    assert numbers.min() >= -2
    assert numbers.max() < 3
    assert stats.kstest((numbers + 2) / 5, "uniform").pvalue > 1e-3


def test_consecutive_epochs_of_one_image_are_uniform() -> None:
    numbers = [Draws(0, epoch, np.array([17])).uniform("flip")[0] for epoch in range(2000)]
    assert stats.kstest(numbers, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 4 / np.sqrt(2000)


def test_happens_with_its_probability() -> None:
    draws = Draws(5, 0, np.arange(N))
    assert abs(draws.happens("flip", 0.3).mean() - 0.3) < 4 * np.sqrt(0.21 / N)
    assert not draws.happens("flip", 0).any()
    assert draws.happens("flip", 1).all()
