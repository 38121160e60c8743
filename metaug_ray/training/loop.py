"""The training loop. It knows no Ray: a state, batches, and a few callbacks are all it takes."""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
import torch.distributed as dist

from metaug_ray.config import PretrainSettings
from metaug_ray.method import distributed
from metaug_ray.method.algorithm import Minibatch
from metaug_ray.training.health import Window, similarity_histograms
from metaug_ray.training.schedule import learning_rate_factor
from metaug_ray.training.state import TrainingState


class StoppedError(Exception):
    """The run cannot go on, and trying again would not help. Raised on all ranks alike."""


class Observer(Protocol):
    """What the loop tells others. Called on every rank, with the same values."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Measurements after `step` steps."""

    def histograms(self, step: int, values: dict[str, list[float]]) -> None:
        """Similarity histograms after `step` steps (:func:`~metaug_ray.training.health.similarity_histograms`)."""

    def note(self, text: str) -> None:
        """A sentence for the user."""

    def save(self, state: TrainingState, metrics: dict[str, float]) -> None:
        """Write a checkpoint of `state`; a collective call. `metrics` are the last ones, with `knn/accuracy` if it was
        measured at this very step."""


@dataclass(frozen=True)
class Batches:
    """Where minibatches come from: each source gives those from a step on, and is closed when the loop ends.

    Args:
        regular: of the regular steps.
        meta: of the meta steps of the `separate` schedule, counted by themselves; None for `fused`.
        steps_per_epoch: of the regular ones.
    """

    regular: Callable[[int], Generator[Minibatch]]
    steps_per_epoch: int
    meta: Callable[[int], Generator[Minibatch]] | None = None


def train(
    settings: PretrainSettings,
    state: TrainingState,
    batches: Batches,
    observer: Observer,
    *,
    device: torch.device,
    knn: Callable[[], float] | None = None,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Train from `state` to the end of the last epoch. A collective call.

    Args:
        settings: of the run.
        state: where it stands; moves on in place.
        batches: this rank's.
        observer: is told measurements, and writes checkpoints: at the end, when one is due, and with each kNN
            evaluation.
        device: of this rank.
        knn: measures the kNN accuracy of the encoders; None where there are no labels.
        group: ranks that train together; None for the default group, or for this process alone where there is none.

    Raises:
        StoppedError: too many steps in a row were not finite.
    """
    total = settings.training.epochs * batches.steps_per_epoch
    if state.step >= total:
        return
    metaug, health = state.metaug, settings.health
    every_epochs = health.knn_every * batches.steps_per_epoch
    clock = _CheckpointClock(settings, device, group)
    window = Window(device, group)
    latest: dict[str, float] = {}
    began, seconds_before = time.perf_counter(), state.seconds

    if state.step == 0:
        if knn is not None and every_epochs:
            observer.metrics(0, {"knn/accuracy": knn()})
        if settings.bank.initial == "features":
            # The epoch after the last: crops that training never sees.
            with closing(batches.regular(total)) as first:
                for done, minibatch in enumerate(islice(first, batches.steps_per_epoch)):
                    if done % health.log_every == 0:
                        observer.note(f"filling the memory bank: batch {done:,} of {batches.steps_per_epoch:,}")
                    metaug.fill_bank(minibatch)
        window.pause(time.perf_counter() - began)

    meta_steps = -(-state.step // metaug.meta.every)
    with (
        closing(batches.regular(state.step)) as regular,
        closing(batches.meta(meta_steps) if batches.meta else _no_batches()) as meta,
    ):
        while state.step < total:
            state.set_learning_rates(
                learning_rate_factor(
                    settings.training.schedule, state.step, batches.steps_per_epoch, settings.training.epochs
                )
            )
            asked = time.perf_counter()
            minibatch = next(regular)
            separate = metaug.meta.schedule == "separate" and metaug.takes_meta_step(state.step)
            meta_minibatch = next(meta) if separate else None
            waited = time.perf_counter() - asked
            outcome = metaug.step(state.step, minibatch, meta_minibatch)
            state.step += 1
            state.skipped += not outcome.applied
            state.skipped_in_row = 0 if outcome.applied else state.skipped_in_row + 1
            state.seconds = seconds_before + time.perf_counter() - began
            window.add(outcome, len(minibatch.indices), waited)
            finished = state.step == total

            if state.step % health.log_every == 0 or finished:
                latest |= window.report(outcome, metaug.model)
                latest |= _progress(state, batches.steps_per_epoch, total, latest["speed/seconds_per_step"])
                observer.metrics(state.step, latest)
            if state.skipped_in_row >= settings.training.nonfinite_limit:
                raise StoppedError(
                    f"the loss or its gradient was not finite in {state.skipped_in_row} steps in a row, up to step "
                    f"{state.step} (training.nonfinite_limit is {settings.training.nonfinite_limit}): lower the "
                    "learning rates, set training.clip_norm, or use training.precision float32, under a new name"
                )

            paused = time.perf_counter()
            accuracy: dict[str, float] = {}
            measured = every_epochs and (state.step % every_epochs == 0 or finished)
            if measured:
                observer.histograms(state.step, similarity_histograms(outcome, group))
                if knn is not None:
                    accuracy = {"knn/accuracy": knn()}
                    observer.metrics(state.step, accuracy)
            # Before anything was learnt there is nothing to save, nor do the optimisers have a state.
            if (measured or finished or clock.due(state.step)) and state.skipped < state.step:
                observer.save(state, latest | accuracy)
                clock.restart()
            window.pause(time.perf_counter() - paused)


def _progress(state: TrainingState, steps_per_epoch: int, total: int, seconds_per_step: float) -> dict[str, float]:
    rates = {
        f"learning_rate/{name}": float(optimizer.param_groups[0]["lr"])
        for name, (_, optimizer) in state.optimizers.items()
    }
    return rates | {
        "progress/epoch": state.step / steps_per_epoch,
        "progress/skipped_steps": float(state.skipped),
        "progress/hours": state.seconds / 3600,
        "progress/hours_left": (total - state.step) * seconds_per_step / 3600,
    }


def _no_batches() -> Generator[Minibatch]:
    yield from ()


_STEPS_PER_LOOK = 50


class _CheckpointClock:
    """Says on all ranks alike when a checkpoint is due: by steps, or by the first rank's clock."""

    def __init__(self, settings: PretrainSettings, device: torch.device, group: dist.ProcessGroup | None) -> None:
        self._settings, self._log_every = settings.checkpoint, settings.health.log_every
        self._device, self._group = device, group
        self.restart()

    def restart(self) -> None:
        self._began = time.monotonic()

    def due(self, step: int) -> bool:
        every = self._settings.every_steps
        if every is not None and step % every == 0:
            return True
        # Clocks differ between ranks and asking costs a message, so they are asked every few steps.
        if self._settings.every_minutes is None or step % min(self._log_every, _STEPS_PER_LOOK):
            return False
        over = time.monotonic() - self._began >= 60 * self._settings.every_minutes
        answer = torch.tensor([float(over and distributed.rank(self._group) == 0)], device=self._device)
        return bool(distributed.all_reduce(answer, dist.ReduceOp.MAX, self._group).item())
