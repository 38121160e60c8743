"""What the encoders are worth while they train, by kNN and RankMe, shared out over the ranks."""

import math
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from metaug_ray.config.pretrain import KNN_ACCURACY, RANKME, OnlineKnnSettings, PretrainSettings
from metaug_ray.data.errors import DataError
from metaug_ray.data.loader import EvaluationLoader
from metaug_ray.data.manifest import read_manifest
from metaug_ray.data.mapped import open_beton
from metaug_ray.data.order import evaluation_shards
from metaug_ray.data.permutation import Permutation
from metaug_ray.data.randomness import Draws
from metaug_ray.data.staging import staged
from metaug_ray.knn import weighted_knn
from metaug_ray.method import distributed
from metaug_ray.method.model import Model
from metaug_ray.training.rankme import effective_rank
from metaug_ray.training.representations import frozen_encoder, representations

_BATCH = 100


class OnlineEvaluation:
    """kNN accuracy and RankMe over a fixed choice of images.

    Args:
        settings: of the run.
        references: the beton whose images vote, and that RankMe is measured on. Where none has a label nothing is
            classified, and all count for RankMe.
        queries: the beton whose images are classified; None to take the references' beton, without those that vote.
        cpus, device, rank, world_size: of this rank.
        group: the ranks; None for the default group, or for this process alone where there is none.

    Raises:
        DataError: too few images have labels.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        references: Path,
        queries: Path | None,
        *,
        cpus: int,
        device: torch.device,
        rank: int = 0,
        world_size: int = 1,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        self._settings, self._encoders, self._group = settings.health.knn, settings.model.encoders, group
        self._classes = len(read_manifest(references).classes)

        def opened(chosen: _Images) -> EvaluationLoader:
            return EvaluationLoader(
                chosen.beton,
                # A number that a worker's share of a small data set fills.
                min(_BATCH, math.ceil(len(chosen.indices) / world_size)),
                settings.data.image_size,
                cpus=cpus,
                device=device,
                images=chosen.indices,
                rank=rank,
                world_size=world_size,
            )

        voters, asked = _choose(settings.health.knn, references, queries)
        self._references = opened(voters)
        self._queries = None if asked is None else opened(asked)

    def measure(self, model: Model) -> dict[str, float]:
        """Values by metric, the same on all ranks. A collective call.

        Returns:
            `knn/accuracy`, the share of the queries that the vote of their nearest references gets right, if there are
            labels; `rankme/<encoder>`, the effective rank of the references' representations, and `rankme/mean`.
        """
        # After a step each rank has batch-norm statistics of its own; the first one's are those that are saved.
        distributed.broadcast_buffers(model.eager_encoder, self._group)
        references, labels, valid = self._representations(model, self._references)
        # As bytes: not every backend moves truth values.
        valid = _gathered(valid.byte(), self._group).bool()
        references, labels = (_gathered(part, self._group)[valid] for part in (references, labels))
        metrics = {}
        if self._queries is not None:
            metrics[KNN_ACCURACY] = self._accuracy(references, labels, *self._representations(model, self._queries))
        ranks = [effective_rank(part) for part in references.chunk(len(self._encoders), dim=1)]
        metrics |= {f"rankme/{encoder}": rank for encoder, rank in zip(self._encoders, ranks, strict=True)}
        return metrics | {RANKME: sum(ranks) / len(ranks)}

    def _accuracy(
        self, references: Tensor, reference_labels: Tensor, queries: Tensor, labels: Tensor, asked: Tensor
    ) -> float:
        """Share of all ranks' queries that are classified rightly, by all references and this rank's queries."""
        predictions = weighted_knn(
            references,
            reference_labels,
            queries[asked],
            classes=self._classes,
            neighbours=self._settings.neighbours,
            temperature=self._settings.temperature,
        )
        counts = torch.stack([(predictions == labels[asked]).sum(), asked.sum()]).double()
        right, total = distributed.all_reduce(counts, dist.ReduceOp.SUM, self._group).tolist()
        return float(right / total)

    def _representations(self, model: Model, loader: EvaluationLoader) -> tuple[Tensor, Tensor, Tensor]:
        """Representations of all encoders side by side [n, E H], labels [n] and validity [n] of this rank's images."""
        with frozen_encoder(model):
            parts = [(representations(model, batch.images), batch.labels, batch.valid) for batch in loader]
        features, labels, valid = (torch.cat(column) for column in zip(*parts, strict=True))
        return features, labels, valid


def open_evaluation(
    settings: PretrainSettings,
    beton: Path,
    *,
    cpus: int,
    device: torch.device,
    rank: int = 0,
    world_size: int = 1,
) -> OnlineEvaluation | None:
    """The evaluation that the settings ask for; None where they ask for none.

    Args:
        settings: of the run.
        beton: the training beton, as this rank reads it.
        cpus, device, rank, world_size: of this rank.

    Raises:
        DataError: too few images have labels, or a beton is missing or broken.
    """
    knn, staging = settings.health.knn, settings.compute.staging
    if not knn.every:
        return None
    # Of shards none before it is known which.
    references, queries = (
        None if place is None else staged(place, staging, lambda shards: ())
        for place in (knn.references_beton, knn.beton)
    )
    references = references or beton
    if read_manifest(references).shards or (queries is not None and read_manifest(queries).shards):
        voters, asked = _choose(knn, references, queries)
        voting = knn.references_beton or settings.data.beton
        for place, chosen in ((voting, voters), (knn.beton or voting, asked)):
            if chosen is not None:
                share = partial(evaluation_shards, rank=rank, world_size=world_size, images=chosen.indices)
                staged(place, staging, share)
    return OnlineEvaluation(settings, references, queries, cpus=cpus, device=device, rank=rank, world_size=world_size)


class _Images(NamedTuple):
    beton: Path
    indices: NDArray[np.int64]
    """in order, so that a rank's share of them is of few shards"""


def _choose(settings: OnlineKnnSettings, references: Path, queries: Path | None) -> tuple[_Images, _Images | None]:
    """Images that vote, and images that are classified; without labels any images, and none to classify."""
    # So many that of fewer four fifths would not be all that vote.
    most = 5 * settings.references + settings.queries
    voters = _labelled(references, most)
    if not len(voters) and queries is None:
        return _Images(references, np.sort(_shuffled(references, settings.references))), None
    count = min(settings.references, len(voters) if queries else len(voters) * 4 // 5)
    asked = (voters[count:] if queries is None else _labelled(queries, most))[: settings.queries]
    if not count or not len(asked):
        raise DataError(
            f"{references}: has {len(voters)} labelled images for the kNN, of which some must vote and others be "
            "classified; give another beton as health.knn.references_beton, or set health.knn.every to 0"
        )
    return _Images(references, np.sort(voters[:count])), _Images(queries or references, np.sort(asked))


def _labelled(beton: Path, most: int) -> NDArray[np.int64]:
    """Indices of labelled images, shuffled: the first ones, `most` at most."""
    manifest = read_manifest(beton)
    if not manifest.shards:
        return _shuffled(beton, most, np.flatnonzero(open_beton(beton).labels >= 0))
    # No rank has the labels of all shards.
    return _shuffled(beton, most) if manifest.labelled else np.empty(0, np.int64)


def _shuffled(beton: Path, most: int, images: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Images, all by default, in the same order each time: betons are often sorted by class."""
    manifest = read_manifest(beton)
    if manifest.shards:
        return Permutation(manifest.samples, 0, 0)[np.arange(min(most, manifest.samples))]
    images = np.arange(manifest.samples) if images is None else images
    return images[np.argsort(Draws(0, 0, images).uniform("knn"), kind="stable")][:most]


def _gathered(part: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """The ranks' tensors, which are of one shape, one after the other."""
    ranks = distributed.world_size(group)
    if ranks == 1:
        return part
    gathered = part.new_empty(ranks * len(part), *part.shape[1:])
    dist.all_gather_single(gathered, part.contiguous(), group)
    return gathered
