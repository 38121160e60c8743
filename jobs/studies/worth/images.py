"""The images of a study, packed in one file, and in the memory of the device that trains on them.

Small images fit there entirely. An epoch's crops are made at its beginning, all at once, with the draws and the
arithmetic of the main job's loader, so that runs here see what runs on Ray see.
"""

import io
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from metaug_ray.choices import OrderKind
from metaug_ray.config.augmentation import AugmentationSettings
from metaug_ray.data.crops import random_resized_crops
from metaug_ray.data.order import TrainingEpoch, training_step_count
from metaug_ray.data.randomness import Draws

HALF: Final = "worth_half.beton"
"""Name of a beton that there is not: half of what there is to learn from."""
_AT_A_TIME: Final = 2048


class Labelled(NamedTuple):
    """A part of the images, on one device."""

    images: Tensor
    """uint8 [N, 3, S, S]"""
    labels: Tensor
    """int64 [N]"""

    def to(self, device: torch.device) -> "Labelled":
        """The same on another device."""
        return Labelled(self.images.to(device), self.labels.to(device))


def pack(betons: Mapping[str, Path], image_size: int, file: Path) -> None:
    """Write the images of several betons, as their evaluation sees them, to one Parquet file of PNGs.

    Args:
        betons: with labels, by the name of the part.
        image_size: side S, in pixels.
        file: that is written.
    """
    from metaug_ray.data.loader import EvaluationLoader  # not to be had where the file is read

    rows = []
    for part, beton in betons.items():
        for batch in EvaluationLoader(beton, 100, image_size, cpus=1, device=torch.device("cpu")):
            for image, label, valid in zip(batch.images, batch.labels.tolist(), batch.valid.tolist(), strict=True):
                if valid:
                    png = io.BytesIO()
                    Image.fromarray(image.permute(1, 2, 0).numpy()).save(png, "PNG", optimize=True)
                    rows.append({"part": part, "image": png.getvalue(), "label": label})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file, compression="none")


def unpack(file: Path) -> dict[str, Labelled]:
    """What :func:`pack` wrote, by the name of the part, on the CPU."""
    table = pq.read_table(file)
    with ThreadPoolExecutor() as pool:
        images = np.stack(list(pool.map(_decoded, table["image"].to_pylist())))
    parts, labels = np.array(table["part"].to_pylist()), np.array(table["label"].to_pylist(), np.int64)
    return {
        str(part): Labelled(
            torch.from_numpy(images[parts == part]).permute(0, 3, 1, 2).contiguous(),
            torch.from_numpy(labels[parts == part]),
        )
        for part in dict.fromkeys(parts)
    }


def _decoded(png: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


@dataclass
class Step:
    """A batch of :class:`MemoryLoader`: one crop uint8 [B, 3, S, S] on the device, and int64 [B] on the CPU."""

    crops: tuple[Tensor]
    indices: Tensor
    global_indices: Tensor | None = None


class MemoryLoader:
    """Shuffled, cropped and mirrored batches from a device's memory.

    The same images in the same order as `metaug_ray.data.loader.PretrainingLoader` gives one rank, but for a level of
    rounding in their crops.

    Args:
        images: uint8 [N, 3, S, S], on the device that batches are wanted on.
        batch_size: images per step.
        augmentation: crops and mirroring; the others must be off.
        seed: of order and augmentations.
        order: how an epoch's images are shuffled.

    Raises:
        ValueError: another augmentation is on.
        DataError: fewer images than a batch.
    """

    def __init__(
        self,
        images: Tensor,
        batch_size: int,
        augmentation: AugmentationSettings,
        seed: int,
        order: OrderKind = "permutation",
    ) -> None:
        others = augmentation.model_copy(
            update={
                name: AugmentationSettings.model_fields[name].default for name in ("crop_scale", "crop_ratio", "flip")
            }
        )
        if others != AugmentationSettings():
            raise ValueError(f"only crops and mirroring are made in memory; switch the others off (got {augmentation})")
        self._images, self._batch_size, self._augmentation, self._seed = images, batch_size, augmentation, seed
        self._order = order
        self.samples = len(images)
        self.steps_per_epoch = training_step_count([self.samples], batch_size, 1)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Step]:
        """The batches of an epoch from a step on."""
        order = TrainingEpoch([self.samples], self._batch_size, 0, 1, self._seed, epoch, self._order)
        steps = np.concatenate(list(order.blocks(start_step)))
        shown = self._shown(steps.reshape(-1), epoch)
        for number, indices in enumerate(steps):
            first = number * self._batch_size
            yield Step((shown[first : first + self._batch_size],), torch.from_numpy(indices.copy()))

    def _shown(self, indices: NDArray[np.int64], epoch: int) -> Tensor:
        """The images of these indices as they look in an epoch, uint8 [n, 3, S, S]."""
        draws = Draws(self._seed, epoch, indices)
        size = np.full(len(indices), self._images.shape[-1], np.int64)
        boxes = random_resized_crops(draws, size, size, self._augmentation.crop_scale, self._augmentation.crop_ratio)
        device = self._images.device
        flips = torch.from_numpy(draws.happens("flip", self._augmentation.flip)).to(device)
        where = torch.from_numpy(indices).to(device)
        shown = [
            resized_crops(self._images[part], box, flip)
            for part, box, flip in zip(
                where.split(_AT_A_TIME),
                torch.from_numpy(boxes).to(device).split(_AT_A_TIME),
                flips.split(_AT_A_TIME),
                strict=True,
            )
        ]
        return torch.cat(shown).contiguous(memory_format=torch.channels_last)


def resized_crops(images: Tensor, boxes: Tensor, flips: Tensor) -> Tensor:
    """Boxes of images, enlarged to the images' size as OpenCV's `INTER_AREA` enlarges, and mirrored where asked.

    Args:
        images: uint8 [n, 3, S, S].
        boxes: (top, left, height, width), int64 [n, 4], each within the image.
        flips: bool [n].

    Returns:
        uint8 [n, 3, S, S].
    """
    top, left, height, width = boxes.unbind(1)
    side = images.shape[-1]
    rows, columns = _enlargement(top, height, side), _enlargement(left, width, side)
    columns = torch.where(flips[:, None, None], columns.flip(1), columns)
    pixels = rows[:, None] @ images.float() @ columns.transpose(1, 2)[:, None]
    return pixels.add_(0.5).floor_().clamp_(0, 255).to(torch.uint8)


def _enlargement(start: Tensor, length: Tensor, side: int) -> Tensor:
    """Weights [n, S, S] that make `side` pixels of `length` from `start` on; [n] each."""
    to = torch.arange(side, device=start.device)
    inverse = side / length[:, None].double()
    source = (to / inverse).floor()
    weight = (to + 1) - (source + 1) * inverse
    weight = torch.where(weight <= 0, 0.0, weight - weight.floor())
    source = source.long()
    last = length[:, None] - 1
    weight = torch.where(source >= last, 0.0, weight).float()
    weights = torch.zeros(len(start), side, side, device=start.device)
    first = start[:, None]
    weights.scatter_add_(2, (first + source.minimum(last))[..., None], (1 - weight)[..., None])
    return weights.scatter_add_(2, (first + (source + 1).minimum(last))[..., None], weight[..., None])


@dataclass(frozen=True)
class Parts:
    """The parts that a study has, on one device.

    Attributes:
        learn: images that encoders and classifiers learn from.
        decide: whose labels choose settings.
        judge: whose labels decided nothing.
        seen: of the test set, that earlier results chose by.
    """

    learn: Labelled
    decide: Labelled
    judge: Labelled
    seen: Labelled

    @classmethod
    def read(cls, file: Path, device: torch.device) -> Self:
        """From what :func:`pack` wrote."""
        return cls(**{name: part.to(device) for name, part in unpack(file).items()})

    def of(self, beton: str) -> "Parts":
        """The parts of a run that learns from a beton: :data:`HALF` stands for the first half of the images."""
        if not beton.endswith(HALF):
            return self
        middle = len(self.learn.labels) // 2
        return replace(self, learn=Labelled(self.learn.images[:middle], self.learn.labels[:middle]))
