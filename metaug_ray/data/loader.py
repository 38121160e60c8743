"""Batches of images on a worker's device, from a beton, the same on every run."""

from collections import deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaug_ray.choices import OrderKind
from metaug_ray.config.augmentation import AugmentationSettings
from metaug_ray.data.augmentation import augment, check_mixup
from metaug_ray.data.cpus import available_cpus
from metaug_ray.data.crops import central_crops, random_resized_crops
from metaug_ray.data.data_set import DataSet
from metaug_ray.data.decoded import decoded_batches
from metaug_ray.data.decoder import Decoder, decoding_rows
from metaug_ray.data.mapped import Stored
from metaug_ray.data.order import (
    TrainingEpoch,
    check_natural,
    check_part,
    check_shards,
    evaluation_shards,
    evaluation_step_count,
    evaluation_steps,
    training_shards,
    training_step_count,
)
from metaug_ray.data.randomness import Draws


class Batch(NamedTuple):
    """One rank's part of a step. Its tensors are its own: they stay as they are when the loader goes on.

    Attributes:
        images: uint8 [B, 3, S, S] on the loader's device, in channels_last memory format: one crop of each image.
        labels: int64 [B] on the device, -1 where the image has none.
        indices: int64 [B] data set indices, on the CPU, where the memory bank wants them.
        valid: bool [B] on the device; False where an evaluation batch is padded. All True in pre-training.
        more_crops: further crops like `images`, if the loader was asked for some.
        global_indices: those of all ranks' images, rank by rank, int64 [W * B] on the CPU, if the loader was asked for
            them.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor
    valid: Tensor
    more_crops: tuple[Tensor, ...] = ()
    global_indices: Tensor | None = None

    @property
    def crops(self) -> tuple[Tensor, ...]:
        """All crops, the first one first."""
        return (self.images, *self.more_crops)


class PretrainingLoader:
    """Shuffled, augmented batches of one rank, without replacement over all ranks; an epoch's remainder is dropped.

    What a crop of an image looks like in an epoch depends on (seed, epoch, index, crop) alone, and which images a step
    holds on (seed, epoch, step) and the global batch size, so that neither a restart nor another number of ranks
    changes either. However many crops there are, an image is decoded once.
    The first batch that a machine ever decodes takes a second or two more, while the decoding is compiled.

    Args:
        beton: local file, or folder of shards, with its manifest beside it, as `prepare` writes and `stage` copies
            them; of shards only those that this rank needs are read.
        batch_size: images per step on this rank.
        image_size: side S of the batches' images, in pixels.
        augmentation: what is done to each image; in a sequence, what is done to each of as many crops of it.
        seed: of order and augmentations.
        cpus: the worker's share of CPUs; no more threads decode, nor more than the process may use.
        device: where batches go; on CUDA they are copied from pinned memory while the batch before is in use.
        rank, world_size: of this worker.
        order: how an epoch's images are shuffled.
        all_ranks: whether batches tell which images the other ranks have.

    Raises:
        DataError: a beton that is missing, unfinished or broken, fewer images than a global batch, one that does not
            divide among the shards, or mixup with an odd `batch_size`.
        ValueError: a size, share, rank, seed or device out of range, or an empty sequence of augmentations.
        TypeError: one that is no integer.
    """

    def __init__(
        self,
        beton: Path,
        batch_size: int,
        image_size: int,
        augmentation: AugmentationSettings | Sequence[AugmentationSettings],
        *,
        seed: int,
        cpus: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        order: OrderKind = "permutation",
        all_ranks: bool = False,
    ) -> None:
        check_part(batch_size, rank, world_size)
        check_natural("seed", seed)
        self._crops = (augmentation,) if isinstance(augmentation, AugmentationSettings) else tuple(augmentation)
        if not self._crops:
            raise ValueError("augmentation is empty, expected one for each crop of an image")
        for each in self._crops:
            check_mixup(each, batch_size)
        self._reader = _Reader(beton, image_size, cpus, device)
        self._seed, self._order, self._all_ranks = seed, order, all_ranks
        self.samples, shards = len(self._reader.data), self._reader.data.shards
        check_shards(str(beton), len(shards), batch_size * world_size, order)
        self._part = (shards, batch_size, rank, world_size)
        self.steps_per_epoch = training_step_count(shards, batch_size, world_size)
        for shard in training_shards(*self._part):
            self._reader.data.shard(shard)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, from `start_step` on: those that an uninterrupted epoch would still have given.

        Args:
            epoch: counted from 0.
            start_step: steps to leave out, up to `steps_per_epoch`.

        Raises:
            ValueError: `epoch` or `start_step` out of range.
        """
        check_natural("epoch", epoch)
        check_natural("start_step", start_step)
        if start_step > self.steps_per_epoch:
            raise ValueError(f"start_step is {start_step}, expected 0 to the epoch's {self.steps_per_epoch} steps")
        return self._batches(epoch, start_step)

    def _batches(self, epoch: int, start_step: int) -> Iterator[Batch]:
        # Steps that were given to the thread that decodes, which is some batches ahead.
        begun: deque[NDArray[np.int64]] = deque()
        with closing(self._reader.read(self._begin(epoch, start_step, begun))) as decoded:
            for crops in decoded:
                step = begun.popleft()
                indices = self._own(step)
                drawn = zip(crops, self._drawn(epoch, indices), strict=True)
                augmented = [augment(images, draws, each) for images, (draws, each) in drawn]
                batch = self._reader.batch(augmented, indices, np.ones(len(indices), dtype=bool))
                yield batch._replace(global_indices=torch.from_numpy(step.copy())) if self._all_ranks else batch

    def _begin(self, epoch: int, start_step: int, begun: deque[NDArray[np.int64]]) -> Iterator[NDArray[np.int64]]:
        """What the decoder takes, [B, columns] a step; each step's indices, this rank's or all ranks', are put down."""
        shards, batch_size, rank, world_size = self._part
        part = (batch_size * world_size, 0, 1) if self._all_ranks else (batch_size, rank, world_size)
        for steps in TrainingEpoch(shards, *part, self._seed, epoch, self._order).blocks(start_step):
            for step, rows in zip(steps, self._rows(epoch, self._own(steps)), strict=True):
                begun.append(step)
                yield rows

    def _own(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's part of steps [..., B], or of those of all ranks, [..., W * B]."""
        _, batch_size, rank, _ = self._part
        return steps[..., rank * batch_size : (rank + 1) * batch_size] if self._all_ranks else steps

    def _rows(self, epoch: int, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the decoder takes for the images [n, B] of some steps [n, B, columns]."""
        flat = steps.reshape(-1)
        stored = self._reader.data.stored(flat)
        crops = (self._placed(stored, draws, each) for draws, each in self._drawn(epoch, flat))
        return decoding_rows(stored, crops).reshape(*steps.shape, -1)

    def _drawn(self, epoch: int, indices: NDArray[np.int64]) -> Iterator[tuple[Draws, AugmentationSettings]]:
        """The draws of each crop of these images, and what they are for."""
        for crop, augmentation in enumerate(self._crops):
            yield Draws(self._seed, epoch, indices, crop), augmentation

    @staticmethod
    def _placed(
        stored: Stored, draws: Draws, augmentation: AugmentationSettings
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Which part of each image a crop shows, and whether mirrored, as `decoding_rows` takes it."""
        scale, ratio = augmentation.crop_scale, augmentation.crop_ratio
        boxes = random_resized_crops(draws, stored.heights, stored.widths, scale, ratio)
        return boxes, draws.happens("flip", augmentation.flip)


class EvaluationLoader:
    """Images in the order of the beton, or in the order asked for: the central square of each, over the ranks.

    Every rank makes the same number of full steps; the last ones are padded, and `valid` says with what.

    Args:
        images: data set indices [n] of the images wanted; all by default.
        crop: side of the central square as a share of the image's shorter side.
        beton, batch_size, image_size, cpus, device, rank, world_size: as for `PretrainingLoader`.

    Raises:
        DataError: a beton that is missing, unfinished or broken.
        ValueError: a size, share, rank, device or image out of range.
        TypeError: one that is no integer.
    """

    def __init__(
        self,
        beton: Path,
        batch_size: int,
        image_size: int,
        *,
        cpus: int,
        device: torch.device,
        images: NDArray[np.int64] | None = None,
        crop: float = 1.0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        check_part(batch_size, rank, world_size)
        if not 0 < crop <= 1:
            raise ValueError(f"crop is {crop}, expected a share of the shorter side, above 0 and up to 1")
        self._reader = _Reader(beton, image_size, cpus, device)
        self._crop = crop
        samples = len(self._reader.data)
        self._images = images
        if images is not None and (not len(images) or images.min() < 0 or images.max() >= samples):
            raise ValueError(f"images must be data set indices from 0 to {samples - 1}, at least one")
        self._part = (samples if images is None else len(images), batch_size, rank, world_size)
        for shard in evaluation_shards(self._reader.data.shards, rank, world_size, images):
            self._reader.data.shard(shard)

    def __len__(self) -> int:
        """Number of steps, the same on every rank."""
        samples, batch_size, _, world_size = self._part
        return evaluation_step_count(samples, batch_size, world_size)

    def __iter__(self) -> Iterator[Batch]:
        rows = (self._rows(self._asked(positions)) for positions, _ in evaluation_steps(*self._part))
        steps = (zip(self._asked(positions), valid, strict=True) for positions, valid in evaluation_steps(*self._part))
        with closing(self._reader.read(chain.from_iterable(rows))) as decoded:
            for (indices, valid), crops in zip(chain.from_iterable(steps), decoded, strict=True):
                yield self._reader.batch(crops, indices, valid)

    def _asked(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Data set indices of the images at these places of what is asked for."""
        return positions if self._images is None else self._images[positions]

    def _rows(self, steps: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the decoder takes for the images [n, B] of some steps [n, B, columns]."""
        flat = steps.reshape(-1)
        stored = self._reader.data.stored(flat)
        boxes = central_crops(stored.heights, stored.widths, self._crop)
        return decoding_rows(stored, [(boxes, np.zeros(len(flat), dtype=bool))]).reshape(*steps.shape, -1)


class _Reader:
    """A data set, and its images by the rows that ask for them."""

    def __init__(self, beton: Path, image_size: int, cpus: int, device: torch.device) -> None:
        check_natural("image_size", image_size, 1)
        check_natural("cpus", cpus, 1)
        if device.type not in ("cpu", "cuda") or (device.type == "cuda" and not torch.cuda.is_available()):
            raise ValueError(f"device is {device}, expected cpu, or cuda where PyTorch finds a GPU")
        self.data = DataSet(beton)
        # The thread that decodes has a current device of its own.
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
        self._device = device
        self._decoder = Decoder(image_size, min(cpus, available_cpus()))

    def read(self, rows: Iterator[NDArray[np.int64]]) -> Generator[tuple[Tensor, ...]]:
        """Crops, each uint8 [B, 3, S, S] on the device, of B images at a time, for B rows at a time."""
        with closing(decoded_batches(self._decoder, rows, self._device)) as decoded:
            for crops in decoded:
                yield crops.permute(0, 1, 4, 2, 3).unbind()

    def batch(self, crops: Iterable[Tensor], indices: NDArray[np.int64], valid: NDArray[np.bool_]) -> Batch:
        """The batch of these crops of its images."""
        images, *more = (each.contiguous(memory_format=torch.channels_last) for each in crops)
        return Batch(
            images,
            torch.from_numpy(self.data.labels(indices)).to(self._device),
            torch.from_numpy(indices.copy()),
            torch.from_numpy(valid.copy()).to(self._device),
            tuple(more),
        )
