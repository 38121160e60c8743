import re

import pytest
import torch
from torch import Tensor

from metaug_ray.choices import NegativeSampling
from metaug_ray.method.targets.memory_bank import BankSample, MemoryBank
from metaug_ray.method.unit_vectors import unit


def rows(bank: MemoryBank) -> Tensor:
    """[N, V, D]."""
    stored = bank.state_dict()["rows"]
    assert isinstance(stored, Tensor)
    return stored


def row_numbers(bank: MemoryBank, found: Tensor) -> Tensor:
    """Which row of view 0 each of the rows [..., D] is."""
    return (found @ rows(bank)[:, 0].T).argmax(-1)


def seen_negatives(bank: MemoryBank, sample: BankSample) -> Tensor:
    """Row numbers [B, K] that each anchor is contrasted with."""
    if sample.negatives.ndim == 4:
        return row_numbers(bank, sample.negatives[0])
    seen = row_numbers(bank, sample.negatives[0]).repeat(sample.positives.shape[1], 1)
    anchors, places = sample.collisions
    seen[anchors, places] = row_numbers(bank, sample.substitutes[0])[anchors]
    return seen


def test_initial_rows_are_unit_and_of_the_seed() -> None:
    bank = MemoryBank(3000, 2, 32, seed=1)
    torch.testing.assert_close(rows(bank).norm(dim=-1), torch.ones(3000, 2))
    assert torch.equal(rows(bank), rows(MemoryBank(3000, 2, 32, seed=1)))
    assert torch.equal(rows(bank)[:1500], rows(MemoryBank(1500, 2, 32, seed=1)))  # (seed, row) alone
    assert not torch.equal(rows(bank), rows(MemoryBank(3000, 2, 32, seed=2)))
    # No two rows alike, across the blocks that they are drawn in.
    assert (rows(bank).flatten(1) @ rows(bank).flatten(1).T - 2 * torch.eye(3000)).abs().max() < 1.8


@pytest.mark.parametrize("sampling", ["shared", "per_anchor"])
def test_positives_are_the_anchors_own_rows_and_negatives_never(sampling: NegativeSampling) -> None:
    bank = MemoryBank(9, 3, 64, negatives=50, sampling=sampling)
    index = torch.tensor([4, 0, 8, 4])
    for step in range(20):
        sample = bank.sample(index, step)
        assert torch.equal(sample.positives, rows(bank)[index].transpose(0, 1))
        assert not (seen_negatives(bank, sample) == index[:, None]).any()


@pytest.mark.parametrize("sampling", ["shared", "per_anchor"])
def test_negatives_are_uniform_over_the_other_rows(sampling: NegativeSampling) -> None:
    bank = MemoryBank(7, 2, 32, negatives=8, sampling=sampling)
    index = torch.tensor([2, 5])
    counts = torch.zeros(2, 8, 7)
    steps = 2000
    for step in range(steps):
        seen = seen_negatives(bank, bank.sample(index, step))
        counts += torch.nn.functional.one_hot(seen, 7)
    expected = steps / 6
    others = torch.stack([counts[a][:, torch.arange(7) != index[a]] for a in range(2)])
    assert others.sum() == 2 * 8 * steps
    chi_square = ((others - expected) ** 2 / expected).sum(-1)  # 5 degrees of freedom, for each anchor and slot
    assert (
        chi_square.max() < 27.9
    )  # each exceeds it with probability 4e-5, one of the 16 with 6e-4; the draws are seeded


def test_shared_similarities_are_those_of_each_anchors_own_negatives() -> None:
    bank = MemoryBank(11, 3, 16, negatives=30, dtype=torch.float64)
    features = unit(torch.randn(3, 4, 16, dtype=torch.float64))
    sample = bank.sample(torch.tensor([1, 10, 1, 6]), 0)
    assert len(sample.collisions[0]) > 0
    seen = seen_negatives(bank, sample)
    none = torch.empty(0, dtype=torch.int64)
    repeated = sample._replace(negatives=rows(bank)[seen].permute(2, 0, 1, 3), collisions=(none, none))
    for ours, expected in zip(sample.similarities(features), repeated.similarities(features), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-14)


def test_gradients_do_not_pass_through_substituted_negatives() -> None:
    bank = MemoryBank(3, 2, 8, negatives=6, dtype=torch.float64)
    sample = bank.sample(torch.tensor([1, 2]), 0)
    assert len(sample.collisions[0]) > 0
    features = unit(torch.randn(2, 2, 8, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: sample.similarities(z), (features,))


def test_draws_depend_on_seed_step_and_stream_alone() -> None:
    index = torch.tensor([3, 4])

    def drawn(seed: int, step: int, stream: str = "regular") -> Tensor:
        return MemoryBank(1000, 2, 16, negatives=20, seed=seed).sample(index, step, stream=stream).negatives

    bank = MemoryBank(1000, 2, 16, negatives=20, seed=3)
    bank.sample(index, 0)
    assert torch.equal(drawn(3, 7), bank.sample(index, 7).negatives)
    base = drawn(3, 7)
    for other in (drawn(3, 8), drawn(3, 7, "meta")):
        assert (base - other).abs().amax() > 0.1


def test_refresh_by_hand() -> None:
    bank = MemoryBank(6, 2, 8, negatives=3, momentum=0.25, dtype=torch.float64)
    before = rows(bank).clone()
    features = unit(torch.randn(2, 4, 8, dtype=torch.float64))
    bank.refresh(bank.sample(torch.tensor([5, 1, 0, 1]), 0), features)
    for row in range(6):
        for view in range(2):
            place = {5: 0, 0: 2, 1: 3}.get(row)  # the last of the two features of row 1
            expected = before[row, view]
            if place is not None:
                mixed = 0.25 * expected + 0.75 * features[view, place]
                expected = mixed / mixed.square().sum().sqrt()
            torch.testing.assert_close(rows(bank)[row, view], expected, rtol=0, atol=1e-15)


def test_refresh_keeps_no_graph() -> None:
    bank = MemoryBank(6, 2, 8, negatives=3)
    bank.refresh(bank.sample(torch.tensor([1]), 0), unit(torch.randn(2, 1, 8, requires_grad=True)))
    assert not rows(bank).requires_grad


@pytest.mark.parametrize(
    ("index", "named"), [([0, 10], "index 10 is outside the memory bank of 10 rows"), ([-1], "index -1 is outside")]
)
def test_index_outside_is_named(index: list[int], named: str) -> None:
    with pytest.raises(IndexError, match=named):
        MemoryBank(10, 2, 8).sample(torch.tensor(index), 0)


def test_bfloat16_rows_take_half_the_memory_and_compare_in_float32() -> None:
    full, half = MemoryBank(100, 2, 32), MemoryBank(100, 2, 32, dtype=torch.bfloat16)
    assert half.local_bytes * 2 == full.local_bytes
    torch.testing.assert_close(rows(half).float(), rows(full), rtol=2**-8, atol=0)
    features = unit(torch.randn(2, 3, 32))
    with torch.autocast("cpu", torch.bfloat16):
        sample = half.sample(torch.tensor([1, 2, 3]), 0)
        similarities = sample.similarities(features)
    assert similarities.negatives.dtype == torch.float32
    wide = sample._replace(
        positives=sample.positives.float(), negatives=sample.negatives.float(), substitutes=sample.substitutes.float()
    )
    for ours, expected in zip(similarities, wide.similarities(features), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize(("ranks", "megabytes"), [(1, 1968), (8, 246)])
def test_imagenet_fits(ranks: int, megabytes: int) -> None:
    """1,281,167 images, 3 views, 128 features in float32: rows of this many bytes, times the rows of one rank."""
    small = MemoryBank(1000, 3, 128)
    bytes_per_row = small.local_bytes / 1000
    assert round(bytes_per_row * -(-1_281_167 // ranks) / 1e6) == megabytes


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": 1}, "a memory bank of 1 rows has no negatives"),
        ({"negatives": 0}, "negatives is 0"),
        ({"momentum": 1.0}, r"momentum is 1.0: it must lie in \[0, 1\)"),
        ({"sampling": "nearest"}, "unknown sampling 'nearest': choose from shared, per_anchor"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MemoryBank(**{"size": 10, "views": 2, **settings})  # type: ignore[arg-type]


def test_state_of_another_bank_is_refused() -> None:
    message = "the saved memory bank has (images, views, feature size) = (12, 2, 8), this one (10, 2, 8)"
    with pytest.raises(ValueError, match=re.escape(message)):
        MemoryBank(10, 2, 8).load_state_dict(MemoryBank(12, 2, 8).state_dict())


def test_state_comes_back() -> None:
    bank, other = MemoryBank(10, 2, 8, seed=1), MemoryBank(10, 2, 8, seed=2)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(rows(other), rows(bank))
    other.refresh(other.sample(torch.tensor([0]), 0), unit(torch.randn(2, 1, 8)))
    assert not torch.equal(rows(other), rows(bank))  # a copy, not the same memory


@pytest.mark.parametrize("index", [torch.tensor([0.7]), torch.tensor([True]), torch.tensor(3), torch.tensor([[1]])])
def test_index_of_another_kind_is_named(index: Tensor) -> None:
    with pytest.raises(ValueError, match=rf"index must be integers \[B\], got {index.dtype}"):
        MemoryBank(10, 2, 8).sample(index, 0)


def test_features_of_another_shape_are_named() -> None:
    bank = MemoryBank(10, 2, 8)
    sample = bank.sample(torch.tensor([1, 2]), 0)
    for use in (lambda z: bank.refresh(sample, z), lambda z: sample.similarities(z)):
        with pytest.raises(ValueError, match=r"(anchors|features) \[2, 3, 8\] do not fit the sample's \[2, 2, 8\]"):
            use(torch.zeros(2, 3, 8))


def test_a_non_finite_feature_does_not_reach_the_bank() -> None:
    bank = MemoryBank(10, 2, 8)
    before = rows(bank).clone()
    features = unit(torch.randn(2, 2, 8))
    features[0, 1, 3] = torch.inf
    bank.refresh(bank.sample(torch.tensor([4, 7]), 0), features)
    assert rows(bank).isfinite().all()
    assert torch.equal(rows(bank)[7, 0], before[7, 0])
    assert not torch.equal(rows(bank)[7, 1], before[7, 1])


def test_rows_are_filled_as_they_are() -> None:
    bank = MemoryBank(10, 2, 4, negatives=3, momentum=0.9)
    before = bank.state_dict()["rows"].clone()
    features = unit(torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)))
    bank.fill(torch.tensor([7, 0, 9]), features)
    rows = bank.state_dict()["rows"]
    torch.testing.assert_close(rows[[7, 0, 9]], features.transpose(0, 1))
    others = [1, 2, 3, 4, 5, 6, 8]
    assert torch.equal(rows[others], before[others])
    with pytest.raises(IndexError, match="index 10 is outside the memory bank of 10 rows"):
        bank.fill(torch.tensor([7, 10, 9]), features)
    with pytest.raises(
        ValueError, match=r"(anchors|features) \[2, 3, 4\] do not fit 2 indices in a bank of 2 views and 4 numbers"
    ):
        bank.fill(torch.tensor([7, 0]), features)


def test_views_that_share_an_encoder_share_a_slot_which_the_first_refreshes() -> None:
    bank = MemoryBank(10, (0, 1, 0), 8, negatives=4)
    rows = bank.state_dict()["rows"]
    assert rows.shape == (10, 2, 8)
    index = torch.tensor([3, 7])
    sample = bank.sample(index, 0)
    z = unit(torch.randn(3, 2, 8))
    similarities = sample.similarities(z)
    pairs = [(u, v) for u in range(3) for v in range(3) if u != v]
    for place, (u, v) in enumerate(pairs):
        expected = (1 + (z[u] * rows[index, (0, 1, 0)[v]]).sum(-1)) / 2
        torch.testing.assert_close(similarities.positives[:, place], expected)
    before = rows.clone()
    bank.update(sample, z)
    torch.testing.assert_close(rows[index, 0], unit(before[index, 0] + z[0]))
    torch.testing.assert_close(rows[index, 1], unit(before[index, 1] + z[1]))
    bank.fill(index, z)
    torch.testing.assert_close(rows[index].transpose(0, 1), z[:2])


def test_what_was_asked_for_is_what_was_there_then() -> None:
    bank = MemoryBank(50, 2, 8, negatives=5, seed=1)
    index = torch.tensor([3, 7])
    asked, expected = bank.ask(index, 4), bank.sample(index, 4)
    bank.refresh(expected, unit(torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(0))))
    keys = asked.keys(torch.zeros(2, 2, 8))
    assert torch.equal(keys.positives, expected.positives)
    assert torch.equal(keys.negatives, expected.negatives)
    assert not torch.equal(keys.positives, bank.sample(index, 4).positives)
    assert asked.keys(torch.zeros(2, 2, 8)) is keys


def test_indices_of_all_ranks_are_as_many_as_they_have() -> None:
    bank = MemoryBank(50, 2, 8, negatives=5, seed=1)
    with pytest.raises(ValueError, match=r"global_index has 3 images, expected the 2 of each of 1 ranks"):
        bank.ask(torch.tensor([3, 7]), 0, global_index=torch.tensor([3, 7, 9]))
