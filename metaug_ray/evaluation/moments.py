"""Means and deviations of rows that come in blocks."""

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

_IN_CACHE: Final = 64
"""Rows whose float64 copy a CPU's cache holds, so that the memory is read once: a third of the time of large blocks."""


def std_mean(blocks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Deviation (over n, not n - 1) and mean, float32 [H], of all rows of blocks [n_i, H], each read once.

    Parts are merged by Chan, Golub and LeVeque's formula (1979), in float64: it takes no large sums from each other.

    Raises:
        ValueError: there are no rows.
    """
    count, mean, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for part in (part for block in blocks for part in block.split(_IN_CACHE) if len(part)):
        values = part.double()
        part_mean = values.mean(0)
        total, difference = count + len(part), part_mean - mean
        squares = squares + (values - part_mean).square_().sum(0) + difference.square() * (count * len(part) / total)
        mean = mean + difference * (len(part) / total)
        count = total
    if not count:
        raise ValueError("got no rows, which have neither mean nor deviation; give at least one")
    return (squares / count).sqrt().float(), mean.float()
