"""A sweep's runs under Ray Tune: begun as there is room, listened to, stopped, and begun again where Ray lost them."""

import logging
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import ray
from pydantic import ValidationError
from ray import tune
from ray.tune import Callback
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from metaug_ray.config.base import explain
from metaug_ray.private import without_keys_in_trials
from metaug_ray.tracking.connection import environment_variables
from metaug_ray.tuning.points import RunState, TrialRun
from metaug_ray.tuning.trial import Trial, TrialReport, TrialTask
from metaug_ray.tuning.trials import Trials

_MOST_LOSSES: Final = 2
"""How often a run whose process Ray lost goes on from its checkpoint."""
_log = logging.getLogger(__name__)
_ENVIRONMENT: Final = {
    # Its own files, tables and lines: a sweep has its own.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "RAY_AIR_NEW_OUTPUT": "0",
    # Ctrl-C ends the sweep at once, with what it has; Tune would wait for the runs.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Workers that are being given back by the run before are no lack of resources.
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "86400",
}


def run_trials(
    trials: Trials,
    task: Callable[[TrialRun], TrialTask],
    *,
    concurrency: int,
    limit: Callable[[], str | None],
    changed: Callable[[], None],
) -> str | None:
    """Run what a sweep has still to run, on a cluster that this process is part of.

    Args:
        trials: of the sweep.
        task: what the process of a run does.
        concurrency: runs at a time.
        limit: says why the sweep shall end with what it has; None while it shall not.
        changed: is called whenever something has happened, and every few seconds.

    Returns:
        Why not all has been run; None where all has.
    """
    listener = _Listener(trials, limit, changed)
    # The processes that drive runs need memory, but no CPU: a worker of theirs would miss it.
    here = f"node:{ray.util.get_node_ip_address()}"
    trainable = tune.with_resources(Trial, PlacementGroupFactory([{"CPU": 0, here: 1e-4}]))
    # Each error of a process is told of, and none that Tune finds no results in its files, which it does not write.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    with environment_variables(**_ENVIRONMENT), without_keys_in_trials(), tempfile.TemporaryDirectory() as scratch:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Runs(listener, task, concurrency),
                scheduler=listener.scheduler,
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name="sweep",
                storage_path=scratch,
                verbose=0,
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[listener],
            ),
        ).fit()
    if listener.failure is not None:
        raise listener.failure
    return listener.over


class _OfThisProcess:
    """Tune writes all that it has into files, to restore it from; ours is kept elsewhere, and more often."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class _Runs(_OfThisProcess, Searcher):  # type: ignore[misc]
    """Gives Tune the next run when there is room for one."""

    def __init__(self, listener: "_Listener", task: Callable[[TrialRun], TrialTask], concurrency: int) -> None:
        # Tune insists on a metric, and looks whether it is there.
        super().__init__(metric="epoch", mode="max")
        self._task, self._listener, self._concurrency = task, listener, concurrency

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        listener = self._listener
        with listener.guarded():
            if listener.over or listener.trials.done:
                return None if listener.names else str(Searcher.FINISHED)
            run = listener.trials.next_run() if len(listener.names) < self._concurrency else None
            if run is not None:
                return self._begin(trial_id, run)
        return None

    def _begin(self, trial_id: str, run: TrialRun) -> dict[str, Any] | None:
        try:
            task = self._task(run)
        except ValidationError as error:  # a point that was not among those tried before
            self._listener.trials.ended(run.name, "failed", explain(error))
            return None
        self._listener.names[trial_id] = run.name
        self._listener.changed()
        return {"task": task}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class _Listener(_OfThisProcess, Callback):  # type: ignore[misc]
    """Tells the trials what their processes report, and Tune which to stop."""

    def __init__(self, trials: Trials, limit: Callable[[], str | None], changed: Callable[[], None]) -> None:
        self.trials, self.changed = trials, changed
        self._limit, self._looked, self._losses = limit, time.monotonic(), Counter[str]()
        self.names: dict[str, str] = {}
        """Runs by the ids of Tune's trials that run them."""
        self.over: str | None = None
        """Why the sweep ends before all is tried."""
        self.failure: Exception | None = None
        """What went wrong with the sweep itself."""
        self.scheduler = _Scheduler(self)

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep what goes wrong, and end the sweep: Tune would bury it."""
        try:
            yield
        except Exception as error:
            self.failure = self.failure or error
            self.over = "the sweep failed"

    def heard(self, trial_id: str, report: TrialReport) -> bool:
        """Take a report; whether its run shall be stopped."""
        if trial_id not in self.names:
            return True
        with self.guarded():
            return self._heard(trial_id, report)
        return True

    def _heard(self, trial_id: str, report: TrialReport) -> bool:
        name, trials = self.names[trial_id], self.trials
        trials.made(name, report.epoch)
        trials.took(name, report.hours, report.step_hours)
        behind = None
        for epoch, value in report.measured:
            if trials.measured(name, epoch, value):
                behind = behind or trials.behind(name, epoch)
        if report.state != "running":
            self._ended(trial_id, report.state, report.reason, **report.found)
        elif behind is not None:
            self._ended(trial_id, "stopped", behind)
        elif self.over:
            self._ended(trial_id, "pending", self.over)
        elif report.measured:
            self.changed()
        return trial_id not in self.names

    def lost(self, trial_id: str, reason: str) -> None:
        """A process was lost: its run goes on in another one, but not for ever."""
        name = self.names.get(trial_id)
        if name is None:
            return
        self._losses[name] += 1
        if self._losses[name] > _MOST_LOSSES:
            self._ended(trial_id, "failed", f"its process was lost {self._losses[name]} times ({reason})")
        else:
            _log.warning("the process of run %s was lost (%s); it goes on in another one", name, reason)
            self._ended(trial_id, "pending", "its process was lost")

    def _ended(self, trial_id: str, state: RunState, reason: str = "", **found: Any) -> None:
        self.trials.ended(self.names.pop(trial_id), state, reason, **found)
        self.changed()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._looked > 1:
            self._looked = time.monotonic()
            with self.guarded():
                self.over = self.over or self._limit()
                self.changed()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        said = [line for line in str(trial.get_error() or "no reason given").splitlines() if line.strip()]
        with self.guarded():
            self.lost(trial.trial_id, said[-1].strip()[:300])


class _Scheduler(_OfThisProcess, FIFOScheduler):  # type: ignore[misc]
    def __init__(self, listener: _Listener) -> None:
        super().__init__()
        self._listener = listener

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        stop = self._listener.heard(trial.trial_id, result["report"])
        return str(TrialScheduler.STOP if stop else TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        # Of a run that says it has ended Tune asks no scheduler whether it shall go on.
        self._listener.heard(trial.trial_id, result["report"])
