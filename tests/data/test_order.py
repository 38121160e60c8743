import numpy as np
import pytest

from metaug_ray.data.errors import DataError
from metaug_ray.data.order import evaluation_steps, training_steps


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_a_step_is_the_same_images_for_any_number_of_ranks(ranks: int) -> None:
    whole = training_steps(1000, 24, 0, 1, seed=5, epoch=2)
    parts = [training_steps(1000, 24 // ranks, rank, ranks, seed=5, epoch=2) for rank in range(ranks)]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_an_epoch_is_without_replacement_and_drops_the_remainder() -> None:
    steps = training_steps(1000, 24, 0, 1, seed=0, epoch=0)
    assert steps.shape == (41, 24)
    assert len(np.unique(steps)) == 41 * 24


def test_epochs_and_seeds_shuffle_anew_and_every_image_comes() -> None:
    orders = [training_steps(100, 10, 0, 1, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert sorted(order.reshape(-1)) == list(range(100))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_fewer_images_than_a_global_batch_is_an_error_with_the_arithmetic() -> None:
    with pytest.raises(
        DataError, match=r"holds 30 images, fewer than one global batch of 32 \(16 on each of 2 workers\)"
    ):
        training_steps(30, 16, 0, 2, seed=0, epoch=0)


@pytest.mark.parametrize(("samples", "ranks"), [(100, 1), (100, 3), (7, 4), (64, 2), (1, 3)])
def test_evaluation_sees_every_image_once(samples: int, ranks: int) -> None:
    parts = [evaluation_steps(samples, 8, rank, ranks) for rank in range(ranks)]
    seen = np.concatenate([indices[valid] for indices, valid in parts])
    assert sorted(seen) == list(range(samples))
    assert len({indices.shape for indices, _ in parts}) == 1
    assert all(indices.min() >= 0 and indices.max() < samples for indices, _ in parts)
