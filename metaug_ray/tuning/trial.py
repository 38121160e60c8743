"""One run of a sweep, in a process of its own that drives it as a person's command would, and then the next one."""

import logging
import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ray.tune import Trainable

from metaug_ray.config.evaluate import EvaluateSettings, ProbeSettings
from metaug_ray.config.machines import MachineSettings
from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.config.sweep import ComparisonSettings
from metaug_ray.data.staging import find_manifest
from metaug_ray.errors import UserError
from metaug_ray.runtime.words import first_line
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.training.supervision import Supervision
from metaug_ray.tuning.points import RunState

_BEAT: Final = 5.0
"""Seconds after which a trial says something even where it has nothing to say, so that it can be stopped."""
_MLFLOW_PATIENCE: Final = 1800.0
"""Seconds for which a run waits where MLflow is away as it begins, or as it is judged."""
_MLFLOW_PAUSE: Final = 10.0
"""Seconds between two attempts to reach MLflow."""
_PATIENCE: Final = 60.0
"""Seconds that a run has to end when it is stopped."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrialTask:
    """What a process of the sweep does.

    Attributes:
        settings: of the run.
        metric: that the sweep goes by.
        tags: of its MLflow run.
        judged: how the encoder is judged when it is finished; None: it is not.
    """

    settings: PretrainSettings
    metric: str
    tags: Mapping[str, str]
    judged: ComparisonSettings | None = None


@dataclass(frozen=True)
class TrialReport:
    """What a trial says now and then.

    Attributes:
        epoch: that it is in.
        measured: values of the metric since the last report, by epoch.
        hours: since it began or went on.
        step_hours: of its steps, over all starts.
        state: `running` until it has ended.
        reason: why it failed.
        found: other fields of its `TrialRun`.
    """

    epoch: float
    measured: tuple[tuple[float, float], ...]
    hours: float
    step_hours: float
    state: RunState = "running"
    reason: str = ""
    found: Mapping[str, Any] = field(default_factory=dict)


class Trial(Trainable):  # type: ignore[misc]
    """A process of Ray Tune's: `step` returns when there is something to say, and now and then.

    Between runs it is used again, as what it imported takes a while.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._drive = _Drive(config["task"])

    def step(self) -> dict[str, Any]:
        report = self._drive.report()
        return {"epoch": report.epoch, "report": report, "done": report.state != "running"}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        if not self._drive.end():
            # Tune would drop the next run in silence; a process that is lost is told of, and the run begins in another.
            os._exit(1)
        self._drive = _Drive(new_config["task"])
        return True

    def cleanup(self) -> None:
        self._drive.end()


class _Drive:
    """A run, in a thread."""

    def __init__(self, task: TrialTask) -> None:
        self._task, self._stop = task, threading.Event()
        self._news: queue.Queue[tuple[float, float] | TrialReport] = queue.Queue()
        self._began = time.monotonic()
        self._epoch = self._step_hours = 0.0
        self._step, self._steps_per_epoch = 0, 1
        self._thread = threading.Thread(target=self._run, name="run", daemon=True)
        self._thread.start()

    def report(self) -> TrialReport:
        """Wait until there is something to say, or a few seconds."""
        news = []
        try:
            news.append(self._news.get(timeout=_BEAT))
            while True:
                news.append(self._news.get_nowait())
        except queue.Empty:
            pass
        measured = tuple(sorted(found for found in news if not isinstance(found, TrialReport)))
        ended = next((found for found in news if isinstance(found, TrialReport)), None)
        hours = (time.monotonic() - self._began) / 3600
        if ended is None:
            return TrialReport(self._epoch, measured, hours, self._step_hours)
        return TrialReport(self._epoch, measured, hours, self._step_hours, ended.state, ended.reason, ended.found)

    def end(self) -> bool:
        """Stop the run, if it still runs; whether it has ended."""
        self._stop.set()
        self._thread.join(_PATIENCE)
        return not self._thread.is_alive()

    def _run(self) -> None:
        state: RunState = "failed"
        reason, found = "", {}
        try:
            found = self._train_and_judge()
            state = "finished"
        except SystemExit:
            state = "pending"
        except UserError as error:
            reason = str(error)
        # The sweep goes on without the run, whatever it died of.
        except BaseException as error:
            _log.exception("run %r failed", self._task.settings.name)
            reason = first_line(error)
        self._news.put(TrialReport(0, (), 0, 0, state, reason, found))

    def _train_and_judge(self) -> dict[str, Any]:
        # Torch takes seconds to import, in a thread that may take them.
        from metaug_ray.training.trainer import pretrain

        settings = self._task.settings
        samples = find_manifest(settings.data.beton).samples
        self._steps_per_epoch = max(1, settings.steps_per_epoch(samples))
        supervision = Supervision(self._take, self._stop, self._task.tags)
        give_up = time.monotonic() + _MLFLOW_PATIENCE
        while True:
            try:
                outcome = pretrain(settings, supervision)
                # What MLflow has not got yet the sweep sends in the end.
                found: dict[str, Any] = {"mlflow_run": outcome.run_id}
                if self._task.judged is not None:
                    found["judged"] = judge(settings, self._task.judged)
                return found
            except TrackingError as error:
                # Whoever gives a wrong address hears it before a sweep begins: MLflow is away, and may come back.
                if time.monotonic() > give_up:
                    raise
                _log.warning("%s; tried again", error)
            if self._stop.wait(_MLFLOW_PAUSE):
                raise SystemExit

    def _take(self, step: int, values: Mapping[str, float]) -> None:
        self._epoch = max(self._epoch, step / self._steps_per_epoch)
        if "speed/seconds_per_step" in values and step > self._step:
            self._step_hours += (step - self._step) * values["speed/seconds_per_step"] / 3600
            self._step = step
        if self._task.metric in values:
            self._news.put((step / self._steps_per_epoch, values[self._task.metric]))


def judge(settings: PretrainSettings, judges: ComparisonSettings) -> dict[str, float]:
    """Accuracies of a finished run's encoder, by what judges: `judge/knn/top1`, `seen/linear/top1`.

    Raises:
        UserError: it cannot be evaluated.
    """
    from metaug_ray.evaluation.evaluate import evaluate

    accuracies: dict[str, float] = {}
    for name, beton in (("judge", judges.judge), ("seen", judges.seen)):
        if beton is None:
            continue
        chosen = EvaluateSettings(
            encoder=f"run:{settings.name}",
            train=judges.train or settings.data.beton,
            test=beton,
            storage=settings.storage,
            views=False,
            plots=False,
            probe=ProbeSettings(seeds=1, label_shares=(1.0,)),
            compute=MachineSettings(**settings.compute.model_dump(include=set(MachineSettings.model_fields))),
            tracking=settings.tracking,
        )
        for result in evaluate(chosen).results:
            accuracies |= {f"{name}/{metric}": value for metric, value in result.metrics().items()}
    return accuracies
