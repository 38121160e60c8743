"""The training loop. It knows no Ray: a state, batches, and a few callbacks are all it takes."""

import math
import time
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import islice
from typing import Final, Protocol

import torch
import torch.distributed as dist

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.method.algorithm import Minibatch, StepOutcome
from metaug_ray.runtime.messages import NOTICED
from metaug_ray.runtime.words import counted
from metaug_ray.training.batches import Batches
from metaug_ray.training.checkpoint_clock import CheckpointClock
from metaug_ray.training.health import Window, empty_views, similarity_histograms
from metaug_ray.training.progress_line import SPREAD
from metaug_ray.training.schedule import learning_rate_factor
from metaug_ray.training.state import TrainingState


class StoppedError(Exception):
    """The run cannot go on, and trying again would not help. Raised on all ranks alike.

    Args:
        reason: why.
        damaged: the checkpoint cannot be read: an earlier one may help.
    """

    def __init__(self, reason: str, *, damaged: bool = False) -> None:
        super().__init__(reason)
        self.damaged = damaged


class Observer(Protocol):
    """What the loop tells others. Called on every rank, with the same values."""

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Measurements after `step` steps."""

    def histograms(self, step: int, values: dict[str, list[float]]) -> None:
        """Similarity histograms after `step` steps (:func:`~metaug_ray.training.health.similarity_histograms`)."""

    def note(self, text: str) -> None:
        """A sentence for the user."""

    def save(self, state: TrainingState, metrics: dict[str, float]) -> None:
        """Write a checkpoint of `state`; a collective call. `metrics` are the last ones, with those of the online
        evaluation if it was made at this very step."""


def train(
    settings: PretrainSettings,
    state: TrainingState,
    batches: Batches,
    observer: Observer,
    *,
    device: torch.device,
    evaluate: Callable[[], dict[str, float]] | None = None,
    notice: Callable[[], object] | None = None,
    group: dist.ProcessGroup | None = None,
) -> None:
    """Train from `state` to the end of the last epoch. A collective call.

    Args:
        settings: of the run.
        state: where it stands; moves on in place.
        batches: this rank's.
        observer: is told measurements, and writes checkpoints: at the end, when one is due, and with each
            evaluation.
        device: of this rank.
        evaluate: measures the encoders, every `health.knn.every` epochs, and gives values by metric, the same on all
            ranks. None to do without.
        notice: gives what machines are about to be taken away, as :class:`CheckpointClock` wants it. None to do
            without.
        group: ranks that train together; None for the default group, or for this process alone where there is none.

    Raises:
        StoppedError: too many steps in a row were not finite.
    """
    clock = CheckpointClock(settings, device, group, notice)
    loop = _Loop(settings, state, batches, observer, device, evaluate, clock, group)
    if state.step < loop.total:
        loop.begin()
        loop.run()


_ADVICE: Final = (
    "lower the learning rates, set training.clip_norm, raise the contrast's temperature or lower its beta, or use "
    "training.precision float32, under a new name"
)


class _Loop:
    """What :func:`train` does, step by step."""

    def __init__(
        self,
        settings: PretrainSettings,
        state: TrainingState,
        batches: Batches,
        observer: Observer,
        device: torch.device,
        evaluate: Callable[[], dict[str, float]] | None,
        clock: CheckpointClock,
        group: dist.ProcessGroup | None,
    ) -> None:
        self.total = settings.training.epochs * batches.steps_per_epoch
        self._settings, self._state, self._batches, self._observer = settings, state, batches, observer
        self._evaluation, self._group = evaluate, group
        self._measure_every = settings.health.knn.every * batches.steps_per_epoch
        self._clock = clock
        self._window = Window(device, group)
        self._latest: dict[str, float] = {}
        self._looked = False
        self._began, self._seconds_before = time.perf_counter(), state.seconds

    def begin(self) -> None:
        """What comes before the first step of a run."""
        if self._state.step > 0:
            return
        if self._measure_every:
            self._evaluate()
        if self._settings.method.targets == "bank" and self._settings.bank.initial == "features":
            self._fill_bank()
        self._window.pause(time.perf_counter() - self._began)

    def run(self) -> None:
        """All steps that are left."""
        state, batches, metaug = self._state, self._batches, self._state.metaug
        self._recall_previous_step()
        meta_steps = -(-state.step // metaug.meta.every)
        with (
            closing(batches.regular(state.step)) as regular,
            closing(batches.meta(meta_steps) if batches.meta else _no_batches()) as meta,
        ):
            while state.step < self.total:
                outcome = self._step(regular, meta)
                if state.step % self._settings.health.log_every == 0 or state.step == self.total:
                    self._report(outcome)
                self._stop_if_not_finite()
                paused = time.perf_counter()
                self._measure_and_save(outcome)
                self._window.pause(time.perf_counter() - paused)

    def _recall_previous_step(self) -> None:
        """Read the images of the step before a checkpoint once more, where the next step looks back at it."""
        lookahead, before = self._state.metaug.lookahead, self._state.step - 1
        if lookahead is not None and lookahead.lacks_images:
            with closing(self._batches.regular(before)) as regular:
                minibatch = next(regular)
            lookahead.recall(minibatch.images, minibatch.indices, before)

    def _fill_bank(self) -> None:
        steps = self._batches.steps_per_epoch
        # The epoch after the last: crops that training never sees, or, where the run is lengthened, when every epoch
        # before has written other features over theirs.
        with closing(self._batches.regular(self.total)) as first:
            for done, minibatch in enumerate(islice(first, steps)):
                if done % self._settings.health.log_every == 0:
                    self._observer.note(f"filling the memory bank: batch {done:,} of {steps:,}")
                self._state.metaug.fill_bank(minibatch)

    def _step(self, regular: Generator[Minibatch], meta: Generator[Minibatch]) -> StepOutcome:
        state, metaug = self._state, self._state.metaug
        training, steps_per_epoch = self._settings.training, self._batches.steps_per_epoch
        state.set_learning_rates(learning_rate_factor(training.schedule, state.step, steps_per_epoch, training.epochs))
        asked = time.perf_counter()
        minibatch = next(regular)
        if not self._looked:
            self._look_at(minibatch)
        separate = metaug.meta.schedule == "separate" and metaug.takes_meta_step(state.step)
        meta_minibatch = next(meta) if separate else None
        waited = time.perf_counter() - asked
        outcome = metaug.step(state.step, minibatch, meta_minibatch)
        state.step += 1
        state.skipped += not outcome.applied
        state.skipped_in_row = 0 if outcome.applied else state.skipped_in_row + 1
        state.seconds = self._seconds_before + time.perf_counter() - self._began
        self._window.add(outcome, len(minibatch.indices), waited)
        return outcome

    def _look_at(self, minibatch: Minibatch) -> None:
        """Say at the first batch of each start which views hold nothing to learn from."""
        self._looked = True
        empty = empty_views(minibatch.images, self._settings.model.views, self._group)
        if not empty:
            return
        images = counted(self._settings.training.batch_size, "image")
        others = [view for view in ("rgb", "l") if view not in empty]
        instead = f", such as --model.views {','.join(others)}" if len(others) > 1 else ""
        self._observer.note(
            f"WARNING: there is nothing to learn from in {counted(len(empty), 'view')}, {' and '.join(empty)}: one "
            f"value in all pixels of the first {images}. Grey images have no "
            f"colours, ab or dbdr; look at the images, or train other views under a new name{instead}"
        )

    def _report(self, outcome: StepOutcome) -> None:
        self._latest |= self._window.report(outcome, self._state.metaug.model)
        self._latest |= self._progress(self._latest["speed/seconds_per_step"])
        self._observer.metrics(self._state.step, self._latest)

    def _progress(self, seconds_per_step: float) -> dict[str, float]:
        state = self._state
        rates = {
            f"learning_rate/{name}": float(optimizer.param_groups[0]["lr"])
            for name, (_, optimizer) in state.optimizers.items()
        }
        return rates | {
            "progress/epoch": state.step / self._batches.steps_per_epoch,
            "progress/skipped_steps": float(state.skipped),
            "progress/hours": state.seconds / 3600,
            "progress/hours_left": (self.total - state.step) * seconds_per_step / 3600,
        }

    def _stop_if_not_finite(self) -> None:
        state, limit = self._state, self._settings.training.nonfinite_limit
        ended = state.step == self.total and self._diverged_at_its_end()
        if state.skipped_in_row >= limit or ended:
            end = ", its last" if ended else f" (training.nonfinite_limit is {limit})"
            raise StoppedError(
                f"the loss or its gradient was not finite in {counted(state.skipped_in_row, 'step')} in a row, up to "
                f"step {state.step}{end}: {_ADVICE}"
            )

    def _diverged_at_its_end(self) -> bool:
        """Whether the run ends broken: one step may be skipped by chance, but not two, nor all, nor with features that
        are no numbers. The same on all ranks."""
        state = self._state
        features = math.isfinite(self._latest[SPREAD])
        return state.skipped_in_row > 1 or state.skipped == state.step or not (state.skipped_in_row == 0 or features)

    def _measure_and_save(self, outcome: StepOutcome) -> None:
        state, finished = self._state, self._state.step == self.total
        measured = self._measure_every and (state.step % self._measure_every == 0 or finished)
        due = self._clock.due(state.step)
        if not (measured or due or finished):
            return
        whole = self._weights_are_finite()
        values: dict[str, float] = {}
        if measured:
            self._observer.histograms(state.step, similarity_histograms(outcome, self._group))
            values = self._evaluate() if whole else {}
        # Before anything was learnt there is nothing to save, nor do the optimisers have a state. While steps are
        # skipped the weights may be broken, and would push good checkpoints out.
        if finished or not state.skipped_in_row:
            if not whole:
                raise StoppedError(f"the encoders' weights are not finite numbers after step {state.step}: {_ADVICE}")
            noticed = {NOTICED: 1.0} if self._clock.noticed else {}
            self._observer.save(state, self._latest | values | noticed)
            self._clock.restart()

    def _weights_are_finite(self) -> bool:
        """The same on all ranks, whose weights are the same. A loss tells of a broken update one step later."""
        weights = [weight.detach() for weight in self._state.metaug.model.eager_encoder.parameters()]
        return bool(torch.stack(list(torch._foreach_norm(weights))).isfinite().all())

    def _evaluate(self) -> dict[str, float]:
        if self._evaluation is None:
            return {}
        values = self._evaluation()
        self._observer.metrics(self._state.step, values)
        return values


def _no_batches() -> Generator[Minibatch]:
    yield from ()
