from collections.abc import Sequence
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from metaug_ray.choices import OrderKind
from metaug_ray.data.errors import DataError
from metaug_ray.data.order import (
    TrainingEpoch,
    evaluation_shards,
    evaluation_step_count,
    evaluation_steps,
    training_shards,
)
from metaug_ray.data.randomness import Draws

KINDS = get_args(OrderKind)


def steps_of(
    samples: int | Sequence[int],
    batch_size: int,
    rank: int = 0,
    ranks: int = 1,
    seed: int = 0,
    epoch: int = 0,
    kind: OrderKind = "permutation",
) -> NDArray[np.int64]:
    shards = [samples] if isinstance(samples, int) else samples
    return np.concatenate(list(TrainingEpoch(shards, batch_size, rank, ranks, seed, epoch, kind).blocks()))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_the_same_images_for_any_number_of_ranks(ranks: int, kind: OrderKind) -> None:
    whole = steps_of(1000, 24, seed=5, epoch=2, kind=kind)
    parts = [steps_of(1000, 24 // ranks, rank, ranks, seed=5, epoch=2, kind=kind) for rank in range(ranks)]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_is_without_replacement_and_drops_the_remainder(kind: OrderKind) -> None:
    steps = steps_of(1000, 24, kind=kind)
    assert steps.shape == (41, 24)
    assert len(np.unique(steps)) == 41 * 24


@pytest.mark.parametrize("kind", KINDS)
def test_epochs_and_seeds_shuffle_anew_and_every_image_comes(kind: OrderKind) -> None:
    orders = [steps_of(100, 10, seed=seed, epoch=epoch, kind=kind) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert sorted(order.reshape(-1)) == list(range(100))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_sorted_epochs_are_those_of_earlier_versions() -> None:
    expected = np.argsort(Draws(5, 2, np.arange(1000)).uniform("order"), kind="stable")
    assert np.array_equal(steps_of(1000, 24, seed=5, epoch=2, kind="sort").reshape(-1), expected[: 41 * 24])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("start", [0, 1, 2050, 6249, 6250])
def test_an_epoch_goes_on_at_any_step(start: int, kind: OrderKind) -> None:
    epoch = TrainingEpoch([25_000], 2, 1, 2, 0, 0, kind)
    whole, rest = (np.concatenate([np.empty((0, 2)), *epoch.blocks(first)]) for first in (0, start))
    assert len(whole) == 6250
    assert np.array_equal(rest, whole[start:])


def test_no_block_holds_an_epoch() -> None:
    first = next(TrainingEpoch([10**12], 96, 5, 1024, 0, 0).blocks(10**6))
    assert first.shape[1] == 96
    assert first.size <= 10_000
    assert len(np.unique(first)) == first.size


def test_fewer_images_than_a_global_batch_is_an_error_with_the_arithmetic() -> None:
    with pytest.raises(
        DataError, match=r"holds 30 images, fewer than one global batch of 32 \(16 on each of 2 workers\)"
    ):
        TrainingEpoch([30], 16, 0, 2, seed=0, epoch=0)


@pytest.mark.parametrize(("samples", "ranks"), [(100, 1), (100, 3), (7, 4), (64, 2), (1, 3), (50_000, 3)])
def test_evaluation_sees_every_image_once(samples: int, ranks: int) -> None:
    parts = []
    for rank in range(ranks):
        positions, valid = zip(*evaluation_steps(samples, 8, rank, ranks), strict=True)
        parts.append((np.concatenate(positions), np.concatenate(valid)))
    seen = np.concatenate([positions[valid] for positions, valid in parts])
    assert sorted(seen) == list(range(samples))
    assert {positions.shape for positions, _ in parts} == {(evaluation_step_count(samples, 8, ranks), 8)}
    assert all(positions.min() >= 0 and positions.max() < samples for positions, _ in parts)
    # Consecutive ones, so that a rank needs few shards.
    assert all((np.diff(positions[valid]) == 1).all() for positions, valid in parts)


SHARDS = [34, 33, 33, 33]


def shard_of(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.repeat(np.arange(4), SHARDS)[indices]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 12])
def test_a_step_takes_as_many_images_of_each_shard_for_any_number_of_ranks(ranks: int) -> None:
    whole = steps_of(SHARDS, 12, seed=5, epoch=2)
    assert whole.shape == (11, 12)
    assert len(np.unique(whole)) == 132
    # Shard by shard in the batch.
    assert (shard_of(whole) == np.repeat(np.arange(4), 3)).all()
    parts = [steps_of(SHARDS, 12 // ranks, rank, ranks, seed=5, epoch=2) for rank in range(ranks)]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)
    for rank, part in enumerate(parts):
        assert list(training_shards(SHARDS, 12 // ranks, rank, ranks)) == np.unique(shard_of(part)).tolist()


def test_each_shard_is_shuffled_by_itself() -> None:
    steps = steps_of([40] * 4, 8).reshape(20, 4, 2).transpose(1, 0, 2).reshape(4, 40) % 40
    assert all(sorted(shard) == list(range(40)) for shard in steps)
    assert len({tuple(shard) for shard in steps}) == 4


def test_the_first_shard_is_ordered_as_if_it_were_alone() -> None:
    assert np.array_equal(steps_of([40, 40, 40], 6)[:, :2], steps_of(40, 2))


def test_a_batch_that_does_not_divide_among_the_shards_is_refused() -> None:
    with pytest.raises(
        DataError, match="the 10 images of a global batch do not divide among its 4 shards; use a batch"
    ):
        TrainingEpoch(SHARDS, 5, 0, 2, 0, 0)
    with pytest.raises(DataError, match=r"4 shards, of which no worker can sort all images; set data\.order"):
        TrainingEpoch(SHARDS, 4, 0, 1, 0, 0, "sort")
    with pytest.raises(DataError, match="holds 133 images, fewer than one global batch of 136"):
        TrainingEpoch(SHARDS, 68, 0, 2, 0, 0)


@pytest.mark.parametrize("ranks", [1, 3, 4, 7, 200])
@pytest.mark.parametrize("chosen", [None, np.array([5, 33, 34, 66, 100, 132])])
def test_evaluation_needs_the_shards_of_its_images(ranks: int, chosen: NDArray[np.int64] | None) -> None:
    count = 133 if chosen is None else len(chosen)
    for rank in range(ranks):
        positions = np.concatenate([positions for positions, _ in evaluation_steps(count, 5, rank, ranks)])
        indices = positions if chosen is None else chosen[positions]
        assert evaluation_shards(SHARDS, rank, ranks, chosen) == np.unique(shard_of(indices)).tolist()
