"""The support set: what it begins with, how it moves, and that looking up needs little memory and misses nothing."""

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import metaug_ray.method.targets.support_set as module
from metaug_ray.method.targets.support_set import SupportSet


def rows(count: int, size: int = 8, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(count, size, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_it_begins_with_unit_rows_that_depend_on_seed_and_row_alone() -> None:
    small, large, other = SupportSet(1500, 2, 8), SupportSet(3000, 2, 8), SupportSet(1500, 2, 8, seed=1)
    torch.testing.assert_close(small.rows.norm(dim=-1), torch.ones(2, 1500))
    assert torch.equal(large.rows[:, :1500], small.rows)
    assert not torch.equal(small.rows, other.rows)
    assert not torch.equal(small.rows[0], small.rows[1])
    # Even over the sphere: the mean of 3000 has a length of about 3000 ** -0.5.
    assert large.rows.flatten(0, 1).mean(0).norm() < 0.05


def test_the_oldest_rows_are_replaced_and_the_end_wraps_around() -> None:
    support = SupportSet(5, 1, 8)
    first, batches = support.rows.clone(), rows(6).split(2)
    for batch in batches:
        support.enqueue(batch.unsqueeze(0))
    expected = torch.stack([batches[2][1], batches[0][1], *batches[1], batches[2][0]])
    assert torch.equal(support.rows[0], expected)
    assert not (support.rows[0] == first[0]).all(-1).any()
    with pytest.raises(ValueError, match="6 features do not fit a support set of 5 rows"):
        support.enqueue(rows(6).unsqueeze(0))


@pytest.mark.parametrize("block", [1, 7, 100, 10_000])
def test_the_nearest_are_those_of_one_product(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", block * 20)
    support, asked = SupportSet(300, 2, 8), rows(20, seed=5)
    support.enqueue(asked[:10].expand(2, -1, -1))
    support.enqueue(asked[:10].expand(2, -1, -1))  # twice: the first of equal ones counts
    for encoder in range(2):
        expected = (asked @ support.rows[encoder].T).argmax(1)
        assert torch.equal(support.nearest(asked, encoder), expected)
        assert torch.equal(expected[:10], torch.arange(10))


class _Largest(TorchDispatchMode):
    """Notes the largest tensor that is made."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                self.largest = max(self.largest, tensor.nbytes)
        return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_looking_up_needs_64_mib_at_most(dtype: torch.dtype) -> None:
    """A quarter of NNCLR's queue, with a larger batch on a rank than it has."""
    support, asked = SupportSet(24_576, 1, 256, dtype=dtype), rows(512, 256)
    with _Largest() as seen:
        support.nearest(asked, 0)
    assert 2**20 < seen.largest <= 32 * 2**20


def test_it_loads_what_it_saved() -> None:
    support, other = SupportSet(6, 1, 8), SupportSet(6, 1, 8, seed=1)
    support.enqueue(rows(4).unsqueeze(0))
    other.load_state_dict({name: value.clone() for name, value in support.state_dict().items()})
    for each in (support, other):
        each.enqueue(rows(4, seed=2).unsqueeze(0))
    assert torch.equal(support.rows, other.rows)
    with pytest.raises(ValueError, match=r"\(1, 6, 8\), this one \(1, 7, 8\)"):
        SupportSet(7, 1, 8).load_state_dict(support.state_dict())


def test_sizes_out_of_range_are_named() -> None:
    with pytest.raises(ValueError, match="a support set of 0 rows"):
        SupportSet(0, 1, 8)
