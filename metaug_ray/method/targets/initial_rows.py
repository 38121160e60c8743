"""Rows that nothing was learnt for yet: uniform over the sphere, a function of seed and row alone."""

from typing import Final

import torch
from torch import Tensor

from metaug_ray.method import draws
from metaug_ray.method.unit_vectors import unit

_ROWS_PER_SEED: Final = 1024  # rows are drawn in blocks of this many: part of what a seed means, never change it


def initial_rows(
    use: str,
    start: int,
    stop: int,
    shape: tuple[int, int],
    *,
    seed: int,
    dtype: torch.dtype,
    device: torch.device | str,
) -> Tensor:
    """Unit vectors [stop - start, *shape], along the last dimension.

    Args:
        use: what the rows are for: others have other rows.
        start, stop: which rows.
        shape: of one row: slots and feature size.
        seed: of the run.
        dtype, device: of the rows.
    """
    rows = torch.empty(stop - start, *shape, dtype=dtype, device=device)
    for block in range(start // _ROWS_PER_SEED, -(-stop // _ROWS_PER_SEED)):
        normal = torch.randn(_ROWS_PER_SEED, *shape, generator=draws.generator(use, "", seed, block))
        first = block * _ROWS_PER_SEED
        low, high = max(start, first), min(stop, first + _ROWS_PER_SEED)
        drawn = unit(normal.to(torch.promote_types(dtype, torch.float32)))
        rows[low - start : high - start] = drawn[low - first : high - first].to(dtype)
    return rows
