"""The memory bank."""

from typing import Literal

from pydantic import Field

from metaug_ray.choices import NegativeSampling
from metaug_ray.config.base import Settings
from metaug_ray.config.model import Precision


class BankSettings(Settings):
    """The memory bank: one feature of every image in every view."""

    negatives: int = Field(4096, ge=1)
    """negatives per anchor (the paper's K)"""
    sampling: NegativeSampling = "shared"
    """one pool of negatives per step, or independent draws for every anchor (slower)"""
    momentum: float = Field(0.5, ge=0, lt=1)
    """share of the old row that a refresh keeps"""
    initial: Literal["random", "features"] = "random"
    """rows before the first epoch: random unit vectors, as CMC's, or features of the untrained encoders, for which they
    see each image once more"""
    precision: Precision = "float32"
    """number format of the stored rows; bfloat16 halves the memory"""
