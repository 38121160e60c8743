"""Rows in one process. The bank's own tests, and those over ranks, see them too."""

import torch

from metaug_ray.method.targets.sharded_rows import ShardedRows
from metaug_ray.method.unit_vectors import unit


def make_rows(seed: int = 0) -> ShardedRows:
    return ShardedRows(9, 2, 4, seed=seed, dtype=torch.float64, device="cpu", group=None)


def test_rows_come_in_the_order_that_they_are_wanted_in() -> None:
    rows = make_rows()
    wanted = torch.tensor([8, 0, 8, 3])
    assert torch.equal(rows.ask(wanted[:2].unsqueeze(0), wanted[2:])(), rows.state()[wanted].transpose(0, 1))


def test_momentum_mixes_old_and_new() -> None:
    rows = make_rows()
    before = rows.state().clone()
    features = unit(torch.randn(2, 3, 4, dtype=torch.float64))
    rows.mix_in(torch.tensor([5, 0, 7]), features, 0.25)
    expected = before.clone()
    expected[[5, 0, 7]] = unit(0.25 * before[[5, 0, 7]] + 0.75 * features.transpose(0, 1))
    torch.testing.assert_close(rows.state(), expected, rtol=0, atol=1e-15)


def test_loading_copies() -> None:
    rows, other = make_rows(0), make_rows(1)
    kept = rows.state().clone()
    other.load(rows.state())
    other.mix_in(torch.tensor([0]), unit(torch.randn(2, 1, 4, dtype=torch.float64)), 0.0)
    assert torch.equal(rows.state(), kept)
    assert torch.equal(other.state()[1:], kept[1:])
