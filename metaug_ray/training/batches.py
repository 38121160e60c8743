"""What a rank reads: endless rows of minibatches, from any step of a run on. Knows neither Ray nor FFCV."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol

from torch import Tensor

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.method.algorithm import Minibatch
from metaug_ray.method.views import split_views
from metaug_ray.view_names import View

_META_SEED: Final = 2**31  # past every seed that a user can give, so the meta minibatches are an order of their own


class Images(Protocol):
    """A part of a step, as a loader gives it."""

    @property
    def crops(self) -> Sequence[Tensor]:
        """Crops of the same images, each uint8 [B, 3, S, S] on the rank's device."""

    @property
    def indices(self) -> Tensor:
        """Data set indices, int64 [B], on the CPU."""

    @property
    def global_indices(self) -> Tensor | None:
        """Those of all ranks' images, rank by rank, int64 [W * B], on the CPU; None where the loader does not tell."""


class Loader(Protocol):
    """Where a rank's images come from: the same ones for the same seed, epoch and step."""

    samples: int
    """N, images in the data set."""
    steps_per_epoch: int

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Images]:
        """The batches of an epoch from a step on."""


@dataclass(frozen=True)
class Batches:
    """Where one rank's minibatches come from: each source gives those from a step on, and is closed when the loop ends.

    Attributes:
        samples: N, images in the data set.
        steps_per_epoch: of the regular ones.
        regular: those of the regular steps.
        meta: those of the meta steps of the `separate` schedule, counted by themselves; None for `fused`.
    """

    samples: int
    steps_per_epoch: int
    regular: Callable[[int], Generator[Minibatch]]
    meta: Callable[[int], Generator[Minibatch]] | None = None


def batches_of(settings: PretrainSettings, make_loader: Callable[[int], Loader]) -> Batches:
    """The minibatches that a run's settings ask for.

    Args:
        settings: of the run.
        make_loader: gives this rank's loader for a seed.
    """
    views, updates = settings.model.parsed_views, settings.training.updates_per_batch
    loader = make_loader(settings.seed)
    separate = settings.method.generators and settings.method.meta.schedule == "separate"
    return Batches(
        loader.samples,
        loader.steps_per_epoch * updates,
        partial(_minibatches, loader, views, updates),
        partial(_minibatches, make_loader(settings.seed + _META_SEED), views, 1) if separate else None,
    )


def _minibatches(loader: Loader, views: tuple[View, ...], updates: int, start: int = 0) -> Generator[Minibatch]:
    """This rank's minibatches from the run's step `start` on, each for so many steps in a row: those that an
    uninterrupted run would still have had."""
    batch, made = divmod(start, updates)
    epoch, step = divmod(batch, loader.steps_per_epoch)
    while True:
        for each in loader.epoch(epoch, step):
            minibatch = Minibatch(split_views(each.crops, views), each.indices, each.global_indices)
            for _ in range(made, updates):
                yield minibatch
            made = 0
        epoch, step = epoch + 1, 0
