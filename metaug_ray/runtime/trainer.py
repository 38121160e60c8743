"""Ray Train's trainer with its controller in the driver's own process, which is there when workers may start.

Ray Train gives the controller a process of its own, which has to start, to import Ray and torch, and dies with the
driver in any case. What this uses of Ray Train is private: an upgrade of Ray may break it.
"""

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

import ray
from ray.actor import ActorHandle
from ray.runtime_env import RuntimeEnv
from ray.train import ControllerError, Result, TrainingFailedError
from ray.train.torch import TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import (
    ENABLE_CONTROLLER_STRUCTURED_LOGGING_ENV_VAR,
    ENABLE_PREEMPTION_WATCHER_ENV_VAR,
    HEALTH_CHECK_INTERVAL_S_ENV_VAR,
    RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR,
    WORKER_GROUP_START_TIMEOUT_S_ENV_VAR,
)
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.failure_handling import FailureDecision
from ray.train.v2._internal.execution.worker_group import Worker, WorkerGroup
from ray.train.v2._internal.logging.logging import LoggingManager

from metaug_ray.runtime.elastic import AllowedCounts
from metaug_ray.runtime.log import handled_alone
from metaug_ray.runtime.notices import Notices, is_preemption
from metaug_ray.runtime.stopping import Stopping
from metaug_ray.runtime.words import first_line
from metaug_ray.tracking.connection import environment_variables

_log = logging.getLogger(__name__)

# Each has a process. One serves Ray's data sets; the other removes what a lost controller had reserved, and what a lost
# driver had reserved Ray removes by itself.
_NOT_NEEDED: Final = (DatasetsCallback, PlacementGroupCleanerCallback)
_HERE: Final = {
    # It would take the handlers of the driver's own log.
    ENABLE_CONTROLLER_STRUCTURED_LOGGING_ENV_VAR: "0",
    # A process of its own for what `Notices` does in this one.
    ENABLE_PREEMPTION_WATCHER_ENV_VAR: "0",
    # Ray warns of whoever waits for it inside an event loop, as its own controller does.
    RAY_WARN_BLOCKING_GET_INSIDE_ASYNC_ENV_VAR: "0",
}
_NO_NEW_BEGINNING: Final = 600.0
_TOLD_EVERY: Final = 600.0
_OF_THE_CONTROLLER: Final = {*_HERE, HEALTH_CHECK_INTERVAL_S_ENV_VAR, WORKER_GROUP_START_TIMEOUT_S_ENV_VAR}


class DriverTrainer(TorchTrainer):  # type: ignore[misc]
    """A `TorchTrainer` whose `fit` runs the controller itself. It takes no data sets of Ray.

    Attributes:
        counts: numbers of workers that there may be, ascending.
        stopping: ends `fit`, with `SystemExit`.
        taken: is told when workers begin again because machines were taken away.
    """

    counts: tuple[int, ...]
    stopping: Stopping
    taken: Callable[[str], None]

    def _create_default_callbacks(self) -> list[RayTrainCallback]:
        callbacks: list[RayTrainCallback] = super()._create_default_callbacks()
        self._notices = Notices()
        return [*(callback for callback in callbacks if not isinstance(callback, _NOT_NEEDED)), self._notices]

    def _initialize_and_run_controller(self, **options: Any) -> Result:
        if len(self.counts) > 1:
            saved = partial(getattr, self.stopping, "saved_at")
            options["scaling_policy"] = AllowedCounts(self.scaling_config, self.counts, saved)
        with environment_variables(**_HERE), _logged_by_ray():
            controller = _Controller(**options)
            controller.taken = self.taken
            try:
                _run(_until(self.stopping, self._notices, controller.run()))
            except BaseException:
                # The driver may live on, as in a notebook, and its workers would too.
                controller.end_workers()
                raise
        return controller.get_result()


@contextmanager
def _logged_by_ray() -> Iterator[None]:
    """Let what the controller logs go to Ray's files, for whoever looks into them, and nowhere else."""
    folder = LoggingManager.get_log_directory()
    handler: logging.Handler = logging.NullHandler()
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(Path(folder, "ray-train-controller.log"))
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    with closing(handler), handled_alone(logging.getLogger("ray.train"), handler):
        yield


async def _until(stopping: Stopping, notices: Notices, task: Coroutine[Any, Any, None]) -> None:
    running = asyncio.ensure_future(task)
    # An interruption amid its work goes to whoever runs the loop; asyncio would print it besides.
    running.add_done_callback(lambda done: done.cancelled() or done.exception())
    told = False
    while not running.done():
        await asyncio.wait({running}, timeout=0.2)
        if stopping.soon.is_set() and not told:
            told = True
            # Longer than they have, so that Ray Train does not begin again meanwhile.
            notices.tell_all(stopping.grace + _NO_NEW_BEGINNING)
        if stopping.now.is_set() and not running.done():
            running.cancel()
            raise SystemExit
    running.result()


def _run(task: Coroutine[Any, Any, None]) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(task)
        return
    # In a notebook, whose own event loop this thread belongs to.
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="controller", daemon=True).start()
    running = asyncio.run_coroutine_threadsafe(task, loop)
    try:
        running.result()
    except BaseException:
        running.cancel()
        raise
    finally:
        loop.call_soon_threadsafe(loop.stop)


class _Workers(WorkerGroup):  # type: ignore[misc]
    @staticmethod
    def _get_worker_runtime_env(custom_runtime_env: dict[str, Any] | RuntimeEnv) -> dict[str, Any]:
        """Without the controller's own variables: Ray has processes ready for workers that want none."""
        environment: dict[str, Any] = dict(WorkerGroup._get_worker_runtime_env(custom_runtime_env))
        variables = environment["env_vars"].items()
        return environment | {"env_vars": {name: value for name, value in variables if name not in _OF_THE_CONTROLLER}}

    def _init_train_context_on_workers(
        self, workers: list[Worker], sync_actor: ActorHandle[Any], train_context_args: dict[str, list[Any]]
    ) -> None:
        """As Ray Train does it, but for the actor that the controller is not here."""
        ray.get(
            [
                worker.actor.init_train_context.remote(
                    train_run_context=self._train_run_context,
                    distributed_context=worker.distributed_context,
                    synchronization_actor=sync_actor,
                    storage_context=self._storage_context,
                    worker_callbacks=self._worker_callbacks_to_propagate,
                    controller_actor=None,
                    **{name: values[number] for name, values in train_context_args.items()},
                )
                for number, worker in enumerate(workers)
            ]
        )
        self._decorate_worker_log_file_paths(workers)


class _Controller(TrainController):  # type: ignore[misc]
    worker_group_cls = _Workers
    taken: Callable[[str], None]
    _told = -math.inf

    def _execute_failure_decision(
        self, failure_decision: FailureDecision, training_failed_error: TrainingFailedError, *args: Any, **kwargs: Any
    ) -> Any:
        if is_preemption(training_failed_error):
            self.taken(first_line(training_failed_error))
        elif isinstance(training_failed_error, ControllerError):
            self._say_what_is_waited_for(training_failed_error)
        return super()._execute_failure_decision(failure_decision, training_failed_error, *args, **kwargs)

    def _say_what_is_waited_for(self, error: ControllerError) -> None:
        """Ray Train tries again without end to start workers for which there is no room, and says so in a file."""
        if (
            isinstance(error.controller_failure, WorkerGroupStartupTimeoutError)
            and self._told + _TOLD_EVERY < monotonic()
        ):
            self._told = monotonic()
            _log.warning(
                "waiting for nodes: the cluster has no room for the run's workers (%s)",
                first_line(error.controller_failure),
            )

    def end_workers(self) -> None:
        """Kill the workers, if there are any, and give back what they had reserved."""
        workers = self.get_worker_group()
        if workers is not None:
            workers.abort()
