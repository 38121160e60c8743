"""A sweep's runs under Ray Tune: begun as there is room, listened to, stopped, and begun again where Ray lost them."""

import tempfile
import time
from collections.abc import Callable
from typing import Any, Final

import ray
from ray import tune
from ray.tune import Callback
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from metaug_ray.runtime.words import first_line
from metaug_ray.tracking.connection import environment_variables
from metaug_ray.tuning.points import TrialRun
from metaug_ray.tuning.trial import Trial, TrialReport, TrialTask
from metaug_ray.tuning.trials import Trials

_MOST_LOSSES: Final = 2
"""How often a run whose process Ray lost goes on from its checkpoint."""
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
    seconds: float | None,
    changed: Callable[[], None],
) -> bool:
    """Run what a sweep has still to run, on a cluster that this process is part of.

    Args:
        trials: of the sweep.
        task: what the process of a run does.
        concurrency: runs at a time.
        seconds: of the sweep, over all its starts, after which it ends with what it has; None: no limit.
        changed: is called whenever something has happened, and every few seconds.

    Returns:
        Whether all has been run; else the time was over.
    """
    listener = _Listener(trials, seconds, changed)
    # The processes that drive runs need next to nothing, and no CPU that a worker of theirs would miss then.
    here = f"node:{ray.util.get_node_ip_address()}"
    trainable = tune.with_resources(Trial, PlacementGroupFactory([{"CPU": 0, here: 1e-4}]))
    with environment_variables(**_ENVIRONMENT), tempfile.TemporaryDirectory() as scratch:
        tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Runs(trials, task, listener, concurrency),
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
                failure_config=tune.FailureConfig(max_failures=_MOST_LOSSES),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                callbacks=[listener],
            ),
        ).fit()
    return not listener.over


class _OfThisProcess:
    """Tune writes all that it has into files, to restore it from; ours is kept elsewhere, and more often."""

    def __reduce__(self) -> tuple[type[object], tuple[()]]:
        return object, ()


class _Runs(_OfThisProcess, Searcher):  # type: ignore[misc]
    """Gives Tune the next run when there is room for one."""

    def __init__(
        self, trials: Trials, task: Callable[[TrialRun], TrialTask], listener: "_Listener", concurrency: int
    ) -> None:
        super().__init__(metric="epoch", mode="max")
        self._trials, self._task, self._listener, self._concurrency = trials, task, listener, concurrency

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        listener = self._listener
        if self._trials.done or listener.over:
            return str(Searcher.FINISHED) if not listener.names else None
        if len(listener.names) >= self._concurrency:
            return None
        run = self._trials.next_run()
        if run is None:
            return None
        listener.names[trial_id] = run.name
        listener.changed()
        return {"task": self._task(run)}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        pass

    def save(self, checkpoint_path: str) -> None:
        pass

    def restore(self, checkpoint_path: str) -> None:
        pass


class _Listener(_OfThisProcess, Callback):  # type: ignore[misc]
    """Tells the trials what their processes report, and Tune which to stop."""

    def __init__(self, trials: Trials, seconds: float | None, changed: Callable[[], None]) -> None:
        self._trials, self._seconds, self.changed = trials, seconds, changed
        self._looked = time.monotonic()
        self.names: dict[str, str] = {}
        """Runs by the ids of Tune's trials that run them."""
        self.over = False
        """Whether the sweep's time is over."""
        self.scheduler = _Scheduler(self)

    def heard(self, trial_id: str, report: TrialReport) -> bool:
        """Take a report; whether its run shall be stopped."""
        if trial_id not in self.names:
            return True
        name, trials = self.names[trial_id], self._trials
        trials.made(name, report.epoch)
        behind = None
        for epoch, value in report.measured:
            trials.measured(name, epoch, value)
            behind = behind or trials.behind(name, epoch)
        if report.measured or report.state != "running":
            trials.took(name, report.hours, report.step_hours)
        if report.state != "running":
            self._ended(trial_id, report.state, report.reason, **report.found)
            return True
        if behind is not None:
            self._ended(trial_id, "stopped", behind)
            return True
        if self._seconds is not None and trials.tick() > self._seconds:
            self.over = True
        if self.over:
            trials.took(name, report.hours, report.step_hours)
            self._ended(trial_id, "pending", "the sweep's time was over")
        elif report.measured:
            self.changed()
        return self.over

    def lost(self, trial_id: str, error: BaseException) -> None:
        """A process was lost more often than allowed."""
        if trial_id in self.names:
            self._ended(trial_id, "failed", f"its process was lost {_MOST_LOSSES + 1} times ({first_line(error)})")

    def _ended(self, trial_id: str, state: Any, reason: str = "", **found: Any) -> None:
        self._trials.ended(self.names.pop(trial_id), state, reason, **found)
        self.changed()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() - self._looked > 1:
            self._looked = time.monotonic()
            self.changed()

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.lost(trial.trial_id, trial.get_error() or RuntimeError("no reason given"))


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
