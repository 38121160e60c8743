"""Classifiers on stored representations, as tasks of a Ray cluster."""

import logging
import time
from collections.abc import Generator, Sequence
from itertools import count
from typing import Any, Final, NamedTuple

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from torch import Tensor

from metaug_ray.config.evaluate import ProbeSettings
from metaug_ray.config.knn import KnnSettings
from metaug_ray.config.references import EARLIER
from metaug_ray.evaluation.accuracy import right_in_top
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.linear_probe import Probe, probe_steps, probe_training
from metaug_ray.evaluation.probe_rows import InMemory, Rows, Streamed
from metaug_ray.evaluation.stored import ROWS_AT_A_TIME, Labelled, in_parts
from metaug_ray.knn import Neighbours, nearest_neighbours, nearest_of, vote
from metaug_ray.runtime.cluster import remote
from metaug_ray.runtime.device import prepare_task
from metaug_ray.runtime.placement import Placement
from metaug_ray.runtime.words import duration, first_line

NOT_FINITE: Final = (
    "encoder: its representations are not finite numbers, so that nothing can be told by them: its training diverged; "
    f"{EARLIER}, or --precision float32, or train again with lower learning rates"
)
_PATIENCE = 30
"""Seconds between two lines of progress."""
_log = logging.getLogger(__name__)


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
        placement: CPUs and GPU of each task, and how many there are at most.
        memory: GiB that a task may hold of the representations.
    """

    def __init__(self, train: Labelled, test: Labelled, classes: int, placement: Placement, memory: float) -> None:
        self._train, self._labels, self._classes = train, torch.tensor(train.labels), classes
        self._placement = placement
        self._shared = ray.put(_Task(train, test, classes, memory * 2**30, placement, _PATIENCE))

    def knn(self, settings: KnnSettings) -> NDArray[np.int64]:
        """Predictions [N] for the test images; they do not depend on how many tasks share the others.

        Each task reads its part of the images to learn from once for all test images, or for as many as the memory
        holds.

        Raises:
            EvaluationError: a task failed, or representations are not finite numbers.
        """
        blocks = in_parts(np.arange(len(self._labels)))
        shares = np.array_split(np.arange(len(blocks)), min(self._placement.workers, len(blocks)))
        task = remote(_neighbours, self._placement, num_returns="streaming")
        parts: list[Neighbours] = _followed(
            "kNN",
            [
                task.remote(self._shared, int(blocks[share[0]][0]), int(blocks[share[-1]][-1]) + 1, settings.neighbours)
                for share in shares
            ],
        )
        votes = [
            vote(*nearest_of(found, settings.neighbours), self._labels, self._classes, settings.temperature)
            # Votes for all classes together may not fit.
            for found in zip(*(_split(*part) for part in parts), strict=True)
        ]
        return torch.cat(votes).numpy()

    def probes(self, settings: ProbeSettings, shares: Sequence[float]) -> dict[float, list[ProbeOutcome]]:
        """A probe for each share of the labels and each seed, by share.

        Args:
            settings: of each.
            shares: of the labels.

        Raises:
            EvaluationError: a task failed, or there are too few labels.
        """
        task = remote(_probe, self._placement, num_returns="streaming")
        # A share of the labels is another choice for each seed, and all of them another order.
        wanted = [(share, seed) for share in shares for seed in range(settings.seeds)]
        found: list[ProbeOutcome] = _followed(
            "linear probes", [task.remote(self._shared, settings, share, seed) for share, seed in wanted]
        )
        return {
            share: [outcome for (its, _), outcome in zip(wanted, found, strict=True) if its == share]
            for share in shares
        }


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


class _Task(NamedTuple):
    """What all tasks share."""

    train: Labelled
    test: Labelled
    classes: int
    memory: float
    placement: Placement
    patience: float
    """Seconds between two words on how far it is."""

    def rows(self, labelled: Labelled) -> int:
        """How many rows a task holds at a time: as each is copied once while it is worked with, half the memory's."""
        return labelled.rows_within(self.memory / 2)


def _neighbours(task: _Task, start: int, stop: int, k: int) -> Generator[float | Neighbours, None, None]:
    """The nearest ones of each test image among the rows from `start` to `stop`, and before them from time to time the
    share of the work that is done."""
    device, clock = prepare_task(task.placement), _Clock(task.patience)
    test, found = np.arange(len(task.test.labels)), []
    for first in range(0, len(test), task.rows(task.test)):
        asked = test[first : first + task.rows(task.test)]
        queries = _finite(task.test.load(asked, torch.empty(len(asked), task.test.size, device=device)))
        nearest, place = None, start
        for block in task.train.blocks(np.arange(start, stop), device):
            cosines, places = nearest_neighbours([_finite(block)], queries, k)
            its = cosines, places + place
            nearest = its if nearest is None else nearest_of([nearest, its], k)
            place += len(block)
            if clock.strikes():
                yield (first + len(asked) * (place - start) / (stop - start)) / len(test)
        assert nearest is not None
        found.append(nearest)
    yield torch.cat([cosines.cpu() for cosines, _ in found]), torch.cat([places.cpu() for _, places in found])


def _finite(block: Tensor) -> Tensor:
    if not block.isfinite().all():
        raise EvaluationError(NOT_FINITE)
    return block


def _split(cosines: Tensor, places: Tensor) -> list[tuple[Tensor, Tensor]]:
    return list(zip(cosines.split(ROWS_AT_A_TIME), places.split(ROWS_AT_A_TIME), strict=True))


def _probe(
    task: _Task, settings: ProbeSettings, share: float, seed: int
) -> Generator[float | ProbeOutcome, None, None]:
    """Tells from time to time which share of its steps is made, and in the end what came of it."""
    device = prepare_task(task.placement)
    train, test = task.train, task.test
    chosen = choose_share(train.labels, share, seed)
    labels = torch.tensor(train.labels[chosen], device=device)
    rows: Rows
    if len(chosen) <= task.rows(train):
        rows = InMemory(train.load(chosen, torch.empty(len(chosen), train.size, device=device)), labels)
    else:
        rows = Streamed(train, chosen, labels, task.rows(train))
    training = probe_training(rows, task.classes, settings, seed)
    probe = yield from _told(training, probe_steps(len(chosen), settings), _Clock(task.patience))
    predictions, top1, top5 = [], 0, 0
    blocks = test.blocks(np.arange(len(test.labels)), device)
    for block, expected in zip(blocks, torch.tensor(test.labels).split(ROWS_AT_A_TIME), strict=True):
        logits = probe.logits(block).cpu()
        if not logits.isfinite().all():
            raise ValueError("its outputs are not finite numbers: probe.learning_rates are too high")
        predictions.append(logits.argmax(1))
        top1 += int(right_in_top(logits, expected, 1).sum())
        top5 += int(right_in_top(logits, expected, 5).sum())
    yield ProbeOutcome(
        top1 / len(test.labels),
        top5 / len(test.labels),
        torch.cat(predictions).numpy(),
        f"learning rate {probe.learning_rate:g}, weight decay {probe.weight_decay:g}",
    )


def _told(training: Generator[None, None, Probe], steps: int, clock: "_Clock") -> Generator[float, None, Probe]:
    for made in count(1):
        try:
            next(training)
        except StopIteration as end:
            probe: Probe = end.value
            break
        if clock.strikes():
            yield made / steps
    return probe


class _Clock:
    """Strikes when so many seconds have gone by."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._last = seconds, time.monotonic()

    def strikes(self) -> bool:
        struck = time.monotonic() >= self._last + self._seconds
        if struck:
            self._last = time.monotonic()
        return struck


def _followed(what: str, tasks: list[Any]) -> list[Any]:
    """What came of tasks that yield shares of their work until they yield that; says from time to time how far they
    are."""
    numbers = {task: number for number, task in enumerate(tasks)}
    shares, found = [0.0] * len(tasks), dict[int, Any]()
    began, clock = time.monotonic(), _Clock(_PATIENCE)
    while numbers:
        ready, _ = ray.wait(list(numbers), timeout=_PATIENCE, fetch_local=False)
        for task in ready:
            try:
                (value,) = _gathered([next(task)])
            except StopIteration:
                del numbers[task]
                continue
            if not isinstance(value, float):
                found[numbers[task]], value = value, 1.0
            shares[numbers[task]] = value
        if numbers and clock.strikes():
            share = sum(shares) / len(shares)
            left = f", {duration((time.monotonic() - began) * (1 - share) / share)} left" if share else ""
            _log.info("%s: %.0f %% done%s", what, 100 * share, left)
    return [found[number] for number in range(len(tasks))]


def _gathered(tasks: list[Any]) -> list[Any]:
    try:
        return list(ray.get(tasks))
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, EvaluationError):
            raise EvaluationError(str(error.cause)) from error
        raise EvaluationError(f"a classifier failed ({first_line(error.cause)})") from error
    except ray.exceptions.RayError as error:
        raise EvaluationError(f"Ray lost a classifier ({first_line(error)}); run it again") from error
