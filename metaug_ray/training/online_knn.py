"""kNN accuracy of the encoders while they train, shared out over the ranks."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.data.beton import beton_labels, open_beton
from metaug_ray.data.errors import DataError
from metaug_ray.data.loader import EvaluationLoader
from metaug_ray.data.manifest import read_manifest
from metaug_ray.data.randomness import Draws
from metaug_ray.data.staging import staged
from metaug_ray.knn import weighted_knn
from metaug_ray.method import distributed
from metaug_ray.method.model import Model
from metaug_ray.method.precision import autocast
from metaug_ray.method.views import split_views

_BATCH = 100


class OnlineKnn:
    """A fixed choice of labelled images: references of the training beton, queries of it or of another one.

    Args:
        settings: of the run.
        beton: the training beton, as this rank reads it.
        queries: the beton whose images are classified; None to take the training beton's, without the references.
        cpus, device, rank, world_size: of this rank.
        group: the ranks; None for the default group, or for this process alone where there is none.

    Raises:
        DataError: too few images have labels.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        beton: Path,
        queries: Path | None,
        *,
        cpus: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        manifest = read_manifest(beton)
        self._classes = len(manifest.classes)
        self._settings, self._device, self._group = settings.health.knn, device, group
        self._views = settings.model.views
        chosen = _labelled(beton)
        references = min(settings.health.knn.references, len(chosen) if queries else len(chosen) * 4 // 5)
        if queries is None:
            queries, asked = beton, chosen[references : references + settings.health.knn.queries]
        else:
            asked = _labelled(queries)[: settings.health.knn.queries]
        if not references or not len(asked):
            raise DataError(
                f"{beton}: has {len(chosen)} labelled images for the kNN, of which some must vote and others be "
                "classified; set health.knn.every to 0"
            )
        # A number that a worker's share of a small data set fills.
        batch = max(1, min(_BATCH, math.ceil(len(asked) / world_size)))
        self._references, self._queries = (
            EvaluationLoader(
                source,
                batch,
                settings.data.image_size,
                cpus=cpus,
                device=device,
                images=np.sort(images),
                rank=rank,
                world_size=world_size,
            )
            for source, images in ((beton, chosen[:references]), (queries, asked))
        )

    def accuracy(self, model: Model) -> float:
        """Share of the queries that the vote of their nearest references gets right. A collective call."""
        # After a step each rank has batch-norm statistics of its own; the first one's are those that are saved.
        distributed.broadcast_buffers(model.eager_encoder, self._group)
        references, reference_labels, valid = self._representations(model, self._references)
        references, reference_labels = (_gathered(part, self._group) for part in (references, reference_labels))
        # As bytes: not every backend moves truth values.
        valid = _gathered(valid.byte(), self._group).bool()
        queries, labels, asked = self._representations(model, self._queries)
        predictions = weighted_knn(
            references[valid],
            reference_labels[valid],
            queries[asked],
            classes=self._classes,
            neighbours=self._settings.neighbours,
            temperature=self._settings.temperature,
        )
        counts = torch.stack([(predictions == labels[asked]).sum(), asked.sum()]).double()
        right, total = distributed.all_reduce(counts, dist.ReduceOp.SUM, self._group).tolist()
        return float(right / total)

    def _representations(self, model: Model, loader: EvaluationLoader) -> tuple[Tensor, Tensor, Tensor]:
        """Representations of all views side by side [n, V H], labels [n] and validity [n] of this rank's images."""
        encoder = model.eager_encoder
        training = encoder.training
        encoder.eval()
        parts = []
        try:
            with torch.inference_mode():
                for batch in loader:
                    views = split_views(batch.images, self._views)
                    with autocast(views[0].device, model.autocast):
                        representations = encoder(views).representations
                    parts.append((representations.transpose(0, 1).flatten(1).float(), batch.labels, batch.valid))
        finally:
            encoder.train(training)
        features, labels, valid = (torch.cat(column) for column in zip(*parts, strict=True))
        return features, labels, valid & (labels >= 0)


def open_knn(
    settings: PretrainSettings,
    beton: Path,
    *,
    cpus: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> OnlineKnn | None:
    """The kNN that the settings ask for; None where they ask for none, or the training beton has no labels.

    Args:
        settings: of the run.
        beton: the training beton, as this rank reads it.
        cpus, device, rank, world_size: of this rank.

    Raises:
        DataError: too few images have labels, or the queries' beton is missing or broken.
    """
    if not settings.health.knn.every or not read_manifest(beton).classes:
        return None
    place = settings.health.knn.beton
    queries = None if place is None else staged(place, settings.compute.staging)
    return OnlineKnn(settings, beton, queries, cpus=cpus, device=device, rank=rank, world_size=world_size)


def _labelled(beton: Path) -> NDArray[np.int64]:
    """Indices of the labelled images, shuffled the same way each time: betons are often sorted by class."""
    labelled = np.flatnonzero(beton_labels(open_beton(beton)) >= 0)
    return labelled[np.argsort(Draws(0, 0, labelled).uniform("knn"), kind="stable")]


def _gathered(part: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The ranks' tensors, which are of one shape, one after the other."""
    ranks = distributed.world_size(group)
    if ranks == 1:
        return part
    gathered = part.new_empty(ranks * len(part), *part.shape[1:])
    dist.all_gather_single(gathered, part.contiguous(), group)
    return gathered
