"""Features and bank rows are unit vectors."""

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(features: Tensor) -> Tensor:
    """Scale the last dimension to l2 norm 1, in float32 at least: bfloat16 would keep the norm to 1 % only."""
    return F.normalize(features if features.dtype == torch.float64 else features.float(), dim=-1)
