"""The driver's view of a run: takes what the workers send, prints it, tracks it, keeps the best checkpoint."""

import threading
from collections.abc import Callable
from typing import Any

from ray.train import Checkpoint, UserCallback
from ray.util.queue import Empty, Queue

from metaug_ray.config import PretrainSettings
from metaug_ray.tracking.runs import RunTracker
from metaug_ray.training.errors import first_line
from metaug_ray.training.messages import post
from metaug_ray.training.progress_line import progress_line
from metaug_ray.training.run_folder import RunFolder


class Monitor:
    """A thread that empties the queue from the workers.

    Args:
        settings: of the run.
        queue: from the workers and Ray Train's controller.
        tracker: MLflow.
        folder: of the run.
        say: prints a line.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        queue: Queue,
        tracker: RunTracker,
        folder: RunFolder,
        say: Callable[[str], None],
    ) -> None:
        self._settings, self._queue, self._tracker, self._folder, self._say = settings, queue, tracker, folder, say
        self._stop = threading.Event()
        self._collapsed = False
        self.restarts = 0
        """Failures of workers so far."""
        self.failure = ""
        """The last one."""
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop, once the queue is empty."""
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        while True:
            try:
                message = self._queue.get(timeout=0.5)
            except Empty:
                if self._stop.is_set():
                    return
                continue
            # The queue is gone with the cluster; what happened to the run, the main thread says.
            except Exception as error:
                if not self._stop.is_set():
                    self._say(f"nothing more is heard of the workers ({type(error).__name__})")
                return
            try:
                self._take(message)
            except Exception as error:
                self._say(f"cannot record {message['kind']} ({type(error).__name__}: {error})")

    def _take(self, message: dict[str, Any]) -> None:
        match message["kind"]:
            case "metrics":
                self._take_metrics(message["step"], message["values"])
            case "histograms":
                self._tracker.histograms(message["step"], message["values"])
            case "note":
                self._say(message["text"])
            case "checkpoint":
                self._say(f"checkpoint {message['name']} is written")
                self._tracker.tags({"metaug.checkpoint": f"{self._folder.location}/{message['name']}"})
                if message["accuracy"] is not None:
                    self._folder.keep_best(message["name"], message["accuracy"], message["step"])
            case "failure":
                self.restarts += 1
                self.failure = message["text"]
                self._say(
                    f"{message['text']}; failure {self.restarts} of {self._settings.compute.max_failures} allowed"
                )

    def _take_metrics(self, step: int, values: dict[str, float]) -> None:
        self._tracker.metrics(step, values)
        if "loss/total" in values:
            self._say(progress_line(step, values))
        if "knn/accuracy" in values:
            self._say(f"kNN accuracy {values['knn/accuracy']:.1%} after {step:,} steps")
        spread, least = values.get("feature_spread", 1.0), self._settings.health.collapse_below
        if spread < least and not self._collapsed:
            self._say(
                f"WARNING: the features collapse: their spread is {spread:.3f} (1 is even over the sphere, "
                f"health.collapse_below is {least:g}); lower the learning rates or change method.beta and method.gamma"
            )
            self._tracker.tags({"metaug.warning": f"features collapsed at step {step}: spread {spread:.3f}"})
        self._collapsed = spread < least


class ControllerMessages(UserCallback):
    """Tells the monitor, from Ray Train's controller, when a checkpoint is whole and when a worker failed."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            name = checkpoint.path.rstrip("/").rpartition("/")[2]
            accuracy = metrics[0].get("knn/accuracy")
            post(self._queue, "checkpoint", name=name, step=metrics[0]["step"], accuracy=accuracy)

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        post(self._queue, "failure", text=describe_failures(worker_exceptions))


def describe_failures(failures: dict[int, Exception]) -> str:
    """What happened to which workers, in one line."""
    return ", ".join(f"worker {rank} failed ({first_line(error)})" for rank, error in sorted(failures.items()))
