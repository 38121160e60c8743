"""Classifiers on stored representations, as tasks of a Ray cluster."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaug_ray.config.evaluate import ProbeSettings
from metaug_ray.config.knn import KnnSettings
from metaug_ray.config.references import EARLIER
from metaug_ray.evaluation.accuracy import top_k_accuracy
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.linear_probe import train_probe
from metaug_ray.knn import nearest_neighbours, vote
from metaug_ray.runtime.cluster import remote
from metaug_ray.runtime.device import prepare_task
from metaug_ray.runtime.placement import Placement
from metaug_ray.runtime.words import first_line

NOT_FINITE: Final = (
    "encoder: its representations are not finite numbers, so that nothing can be told by them: its training diverged; "
    f"{EARLIER}, or --precision float32, or train again with lower learning rates"
)
_ROWS_PER_BLOCK = 4096
_PATIENCE = 30
_log = logging.getLogger(__name__)


class Labelled(NamedTuple):
    """Representations float32 [N, H] and labels int64 [N] of labelled images, and their data set indices int64 [N]."""

    representations: NDArray[np.float32]
    labels: NDArray[np.int64]
    images: NDArray[np.int64]


class _Stored(NamedTuple):
    """Labelled representations in Ray's object store: blocks of rows, which tasks read one after the other."""

    blocks: list[Any]
    labels: NDArray[np.int64]
    size: int

    def read(self, device: torch.device) -> Iterator[Tensor]:
        """The blocks, float32 [R_i, H]."""
        for block in self.blocks:
            yield torch.tensor(ray.get(block), device=device)

    def rows(self, chosen: NDArray[np.int64], device: torch.device) -> Tensor:
        """Some rows, by rising numbers, float32 [n, H]: the one copy of them that a task makes."""
        rows = torch.empty(len(chosen), self.size, device=device)
        start = 0
        for block in self.blocks:
            values = ray.get(block)
            low, high = np.searchsorted(chosen, (start, start + len(values)))
            rows[low:high] = torch.from_numpy(values[chosen[low:high] - start])
            start += len(values)
        return rows


class ProbeOutcome(NamedTuple):
    """What one probe showed: accuracies, predictions int64 [N] for the test images, the chosen settings."""

    top1: float
    top5: float
    predictions: NDArray[np.int64]
    choice: str


class Classifiers:
    """Runs classifiers on one pair of representations.

    Args:
        train, test: to learn from, and to be judged by.
        classes: C.
        placement: CPUs and GPU of each task.

    Raises:
        EvaluationError: the representations are larger than Ray's object store and the disk that it spills to.
    """

    def __init__(self, train: Labelled, test: Labelled, classes: int, placement: Placement) -> None:
        self._train, self._test = _store(train), _store(test)
        self._classes, self._placement = classes, placement

    def knn(self, settings: KnnSettings) -> NDArray[np.int64]:
        """Predictions [N] for the test images; they do not depend on how many tasks share them.

        Raises:
            EvaluationError: a task failed.
        """
        task = remote(_knn, self._placement)
        return np.concatenate(
            _gathered(
                [
                    task.remote(self._train, block, self._classes, settings, self._placement)
                    for block in self._test.blocks
                ]
            )
        )

    def probes(self, settings: ProbeSettings, shares: Sequence[float]) -> dict[float, list[ProbeOutcome]]:
        """A probe for each share of the labels and each seed, by share.

        Args:
            settings: of each.
            shares: of the labels.

        Raises:
            EvaluationError: a task failed, or there are too few labels.
        """
        task = remote(_probe, self._placement)
        started = {
            share: [
                task.remote(self._train, self._test, self._classes, settings, share, seed, self._placement)
                # A share of the labels is another choice for each seed, and all of them another order.
                for seed in range(settings.seeds)
            ]
            for share in shares
        }
        _wait([task for tasks in started.values() for task in tasks])
        return {share: _gathered(tasks) for share, tasks in started.items()}


def choose_share(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """Indices of a share of the images, the same share of each class (at least one image), by chance."""
    if share == 1:
        return np.arange(len(labels))
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen.append(generator.permutation(members)[: _of_class(len(members), share)])
    return np.sort(np.concatenate(chosen))


def images_of_share(class_counts: Sequence[int], share: float) -> int:
    """How many images :func:`choose_share` takes of classes of these sizes."""
    return sum(_of_class(count, share) for count in class_counts if count)


def _of_class(count: int, share: float) -> int:
    return max(1, round(share * count))


def _store(labelled: Labelled) -> _Stored:
    representations = labelled.representations
    starts = range(0, len(representations), _ROWS_PER_BLOCK)
    try:
        blocks = [ray.put(_finite(representations[start : start + _ROWS_PER_BLOCK])) for start in starts]
    except ray.exceptions.RayError as error:
        raise EvaluationError(
            f"{representations.nbytes / 2**30:.1f} GiB of representations do not fit into Ray's object store and the "
            f"disk that it spills to ({first_line(error)}); start Ray with a larger --object-store-memory"
        ) from error
    return _Stored(blocks, labelled.labels, representations.shape[1])


def _finite(block: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(block).all():
        raise EvaluationError(NOT_FINITE)
    return np.ascontiguousarray(block)


def _knn(
    train: _Stored, queries: NDArray[np.float32], classes: int, settings: KnnSettings, placement: Placement
) -> NDArray[np.int64]:
    device = prepare_task(placement)
    found = nearest_neighbours(train.read(device), torch.tensor(queries, device=device), settings.neighbours)
    labels = torch.tensor(train.labels, device=device)
    return vote(*found, labels, classes, settings.temperature).cpu().numpy()


def _probe(
    train: _Stored,
    test: _Stored,
    classes: int,
    settings: ProbeSettings,
    share: float,
    seed: int,
    placement: Placement,
) -> ProbeOutcome:
    device = prepare_task(placement)
    chosen = choose_share(train.labels, share, seed)
    labels = torch.tensor(train.labels[chosen], device=device)
    probe = train_probe(train.rows(chosen, device), labels, classes, settings, seed)
    expected = torch.tensor(test.labels)
    logits = torch.cat([probe.logits(block).cpu() for block in test.read(device)])
    if not logits.isfinite().all():
        raise ValueError("its outputs are not finite numbers: probe.learning_rates are too high")
    return ProbeOutcome(
        top_k_accuracy(logits, expected, 1),
        top_k_accuracy(logits, expected, 5),
        logits.argmax(1).numpy(),
        f"learning rate {probe.learning_rate:g}, weight decay {probe.weight_decay:g}",
    )


def _wait(tasks: list[Any]) -> None:
    """Say from time to time how many are done."""
    left = list(tasks)
    while left:
        # Failures come to light when results are taken.
        _, left = ray.wait(left, num_returns=len(left), timeout=_PATIENCE, fetch_local=False)
        if left:
            _log.info("linear probes: %d of %d are trained", len(tasks) - len(left), len(tasks))


def _gathered(tasks: list[Any]) -> list[Any]:
    try:
        return list(ray.get(tasks))
    except ray.exceptions.RayTaskError as error:
        raise EvaluationError(f"a classifier failed ({first_line(error.cause)})") from error
    except ray.exceptions.RayError as error:
        raise EvaluationError(f"Ray lost a classifier ({first_line(error)}); run it again") from error
