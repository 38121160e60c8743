"""RankMe (Garrido et al. 2023): how many dimensions representations fill, which takes no labels to know."""

import math
from typing import Final

import torch
from torch import Tensor

_ROWS: Final = 1024


@torch.no_grad()
def effective_rank(features: Tensor) -> float:
    """The exponential of the entropy of the singular values, as shares of their sum (Roy and Vetterli 2007).

    It is 1 where all features lie on one line, and min(n, H) where they fill all dimensions evenly: n images bound it,
    whatever the dimensions, and few of them give a smaller rank than many. So ranks are compared only over the same
    number of images and dimensions. The features are not centred, as in the paper. The paper takes the projections that
    the loss sees and 25,600 images; it is the caller who chooses both.

    The singular values are the roots of the eigenvalues of the features' Gram matrix, in float64. What lies below 1e-8
    of the greatest is rounding; the paper adds 1e-7 to each share for the like.

    Args:
        features: [n, H], of any norm.

    Returns:
        The rank; 0 where all features are zero, NaN where one is not finite.
    """
    if not features.isfinite().all():
        return math.nan
    rows = features if features.shape[0] >= features.shape[1] else features.T
    gram = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=features.device)
    # All rows in float64 might not fit.
    for part in rows.split(_ROWS):
        block = part.double()
        gram.addmm_(block.T, block)
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    total = singular.sum()
    return float(torch.special.entr(singular / total).sum().exp()) if total > 0 else 0.0
