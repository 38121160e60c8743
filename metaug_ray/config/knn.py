"""The weighted k-nearest-neighbour classifier, while training and in evaluations."""

from pydantic import Field

from metaug_ray.config.base import Positive, Settings


class KnnSettings(Settings):
    """The weighted k-nearest-neighbour classifier (Wu et al. 2018)."""

    neighbours: int = Field(20, ge=1)
    """number of neighbours that vote (k)"""
    temperature: Positive = 0.07
    """temperature t of the votes' weights exp(cosine / t)"""
