"""An endless row of minibatches, from any step of a run on."""

from collections.abc import Generator

from metaug_ray.data.loader import PretrainingLoader
from metaug_ray.method.algorithm import Minibatch
from metaug_ray.method.views import split_views


def minibatches(loader: PretrainingLoader, views: tuple[str, ...], start: int = 0) -> Generator[Minibatch]:
    """This rank's minibatches from the run's step `start` on: those that an uninterrupted run would still have had."""
    epoch, step = divmod(start, loader.steps_per_epoch)
    while True:
        for batch in loader.epoch(epoch, step):
            yield Minibatch(split_views(batch.images, views), batch.indices)
        epoch, step = epoch + 1, 0
