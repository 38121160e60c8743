"""The support set."""

from pydantic import Field

from metaug_ray.config.base import Settings
from metaug_ray.config.model import Precision


class SupportSettings(Settings):
    """The support set: features of the last batches, among which neighbours are looked up."""

    size: int = Field(98_304, ge=2, le=100_000_000)
    """features that it holds; each worker has all of them"""
    precision: Precision = "float32"
    """number format of the stored features; bfloat16 halves the memory"""
