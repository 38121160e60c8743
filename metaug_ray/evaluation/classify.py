"""Classifiers on stored representations, as tasks of a Ray cluster."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from metaug_ray.config import KnnSettings, ProbeSettings
from metaug_ray.evaluation.errors import EvaluationError, first_line
from metaug_ray.evaluation.knn import weighted_knn
from metaug_ray.evaluation.linear_probe import top_k_accuracy, train_probe
from metaug_ray.training.cluster import remote
from metaug_ray.training.placement import Placement

_QUERIES_PER_TASK = 4096


class Labelled(NamedTuple):
    """Representations float32 [N, H] and labels int64 [N] of labelled images, and their data set indices int64 [N]."""

    representations: NDArray[np.float32]
    labels: NDArray[np.int64]
    images: NDArray[np.int64]


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
        EvaluationError: the representations are larger than Ray's object store.
    """

    def __init__(self, train: Labelled, test: Labelled, classes: int, placement: Placement) -> None:
        try:
            self._train, self._test = ray.put(train), ray.put(test)
        except ray.exceptions.RayError as error:
            raise EvaluationError(
                f"{train.representations.nbytes / 2**30:.1f} GiB of representations do not fit into Ray's object store "
                f"({first_line(error)}); start Ray with a larger --object-store-memory"
            ) from error
        self._count = len(test.labels)
        self._labels = test.labels
        self._classes, self._placement = classes, placement

    def knn(self, settings: KnnSettings) -> NDArray[np.int64]:
        """Predictions [N] for the test images; they do not depend on how many tasks share them.

        Raises:
            EvaluationError: a task failed.
        """
        starts = range(0, self._count, _QUERIES_PER_TASK)
        task = remote(_knn, self._placement)
        parts = [
            task.remote(self._train, self._test, start, self._classes, settings, self._placement) for start in starts
        ]
        return np.concatenate(_gathered(parts))

    def probes(self, settings: ProbeSettings, shares: Sequence[float]) -> dict[float, list[ProbeOutcome]]:
        """A probe for each share of the labels and each seed, by share.

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
        return {share: _gathered(tasks) for share, tasks in started.items()}


def choose_share(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.int64]:
    """Indices of a share of the images, the same share of each class (at least one image), by chance."""
    if share == 1:
        return np.arange(len(labels))
    generator = np.random.default_rng(seed)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen.append(generator.permutation(members)[: max(1, round(share * len(members)))])
    return np.sort(np.concatenate(chosen))


def _knn(
    train: Labelled, test: Labelled, start: int, classes: int, settings: KnnSettings, placement: Placement
) -> NDArray[np.int64]:
    device = _device(placement)
    asked = test.representations[start : start + _QUERIES_PER_TASK]
    references, labels, queries = (
        torch.tensor(part, device=device) for part in (train.representations, train.labels, asked)
    )
    predictions = weighted_knn(
        references,
        labels,
        queries,
        classes=classes,
        neighbours=settings.neighbours,
        temperature=settings.temperature,
    )
    return predictions.cpu().numpy()


def _probe(
    train: Labelled,
    test: Labelled,
    classes: int,
    settings: ProbeSettings,
    share: float,
    seed: int,
    placement: Placement,
) -> ProbeOutcome:
    device = _device(placement)
    chosen = choose_share(train.labels, share, seed)
    representations = torch.tensor(train.representations[chosen], device=device)
    labels = torch.tensor(train.labels[chosen], device=device)
    probe = train_probe(representations, labels, classes, settings, seed)
    expected = torch.tensor(test.labels)
    logits = torch.cat([probe.logits(torch.tensor(part, device=device)).cpu() for part in _parts(test.representations)])
    return ProbeOutcome(
        top_k_accuracy(logits, expected, 1),
        top_k_accuracy(logits, expected, 5),
        logits.argmax(1).numpy(),
        f"learning rate {probe.learning_rate:g}, weight decay {probe.weight_decay:g}",
    )


def _parts(array: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    return [array[start : start + _QUERIES_PER_TASK] for start in range(0, len(array), _QUERIES_PER_TASK)]


def _device(placement: Placement) -> torch.device:
    if placement.gpu:
        return torch.device("cuda")
    torch.set_num_threads(placement.cpus)
    return torch.device("cpu")


def _gathered(tasks: list[Any]) -> list[Any]:
    try:
        return list(ray.get(tasks))
    except ray.exceptions.RayTaskError as error:
        raise EvaluationError(f"a classifier failed ({first_line(error.cause)})") from error
    except ray.exceptions.RayError as error:
        raise EvaluationError(f"Ray lost a classifier ({first_line(error)}); run it again") from error
