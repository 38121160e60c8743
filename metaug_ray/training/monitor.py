"""The driver's view of a run: takes what the workers send, logs it, tracks it, keeps the best checkpoint."""

import logging
from collections.abc import Callable, Mapping
from typing import assert_never

from metaug_ray.config.pretrain import RANKME, PretrainSettings
from metaug_ray.runtime.messages import (
    NOTICED,
    CheckpointWritten,
    Histograms,
    Measured,
    Message,
    Note,
    WorkersFailed,
)
from metaug_ray.runtime.run_folder import RunFolder
from metaug_ray.runtime.stopping import Stopping
from metaug_ray.tracking.runs import RunTracker
from metaug_ray.training.progress_line import SPREAD, evaluation_line, progress_line

_log = logging.getLogger(__name__)


class Monitor:
    """Takes messages, one after the other.

    Args:
        settings: of the run.
        tracker: MLflow.
        folder: of the run.
        stopping: is told of checkpoints.
        measured: is told besides what was measured.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        tracker: RunTracker,
        folder: RunFolder,
        stopping: Stopping,
        measured: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> None:
        self._measured = measured
        self._settings, self._tracker, self._folder, self._stopping = settings, tracker, folder, stopping
        self._collapsed: set[str] = set()
        self.restarts = 0
        """Failures of workers so far."""
        self.failure = ""
        """The last one."""

    def take(self, message: Message) -> None:
        """What :func:`~metaug_ray.runtime.messages.post` sent."""
        match message:
            case Measured(step, values):
                self._take_metrics(step, values)
            case Histograms(step, shares):
                self._tracker.histograms(step, shares)
            case Note(text):
                _log.info(text)
            case CheckpointWritten(name, step, metrics):
                _log.info("checkpoint %s is written", name)
                self._tracker.tags({"metaug.checkpoint": f"{self._folder.location}/{name}"})
                self._folder.keep_best(name, step, metrics, by=self._settings.health.best_metric)
                # One that was on its way already is older than what was asked for.
                self._stopping.saved(asked_for=NOTICED in metrics)
            case WorkersFailed(text):
                self.restarts += 1
                self.failure = text
                _log.warning("%s; failure %d of %d allowed", text, self.restarts, self._settings.compute.max_failures)
            case _:
                assert_never(message)

    def machines_taken(self, text: str) -> None:
        """Workers begin again because machines were taken away: that is no failure, and no start in a row."""
        _log.warning("machines were taken away, which counts as no failure: the workers begin again (%s)", text)
        self._folder.count_start(None)

    def _take_metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._tracker.metrics(step, values)
        if self._measured is not None:
            self._measured(step, values)
        if "loss/total" in values:
            _log.info(progress_line(step, values))
        if RANKME in values:
            _log.info(evaluation_line(step, values, self._settings.model.encoders))
        for view in self._settings.model.views:
            self._watch_spread(step, view, values.get(f"{SPREAD}_{view}", 1.0))

    def _watch_spread(self, step: int, view: str, spread: float) -> None:
        """Each view by itself: the mean over the views would hide that one is dead."""
        least = self._settings.health.collapse_below
        if spread < least and view not in self._collapsed:
            self._collapsed.add(view)
            _log.warning(
                "WARNING: the features of the view %s collapse: their spread is %.3f (1 is even over the sphere, "
                "health.collapse_below is %g); see whether its images differ, lower the learning rates, or change the "
                "contrast's parameters (method.%s)",
                view,
                spread,
                least,
                self._settings.method.contrast,
            )
            self._tracker.tags(
                {"metaug.warning": f"features of the view {view} collapsed at step {step}: spread {spread:.3f}"}
            )
        elif spread >= least:
            self._collapsed.discard(view)
