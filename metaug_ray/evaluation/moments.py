"""Means and deviations of rows that come in blocks."""

from collections.abc import Iterable

import torch
from torch import Tensor


def std_mean(blocks: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Deviation (over n, not n - 1) and mean, float32 [H], of all rows of blocks [n_i, H], in one pass.

    Blocks are merged by Chan, Golub and LeVeque's formula (1979), in float64: it takes no large sums from each other.

    Raises:
        ValueError: there are no rows.
    """
    count, mean, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for block in blocks:
        if not len(block):
            continue
        variance, block_mean = torch.var_mean(block.double(), 0, correction=0)
        total = count + len(block)
        difference = block_mean - mean
        squares = squares + variance * len(block) + difference.square() * (count * len(block) / total)
        mean = mean + difference * (len(block) / total)
        count = total
    if not count:
        raise ValueError("got no rows, which have neither mean nor deviation; give at least one")
    return (squares / count).sqrt().float(), mean.float()
