"""The driver's view of a run: takes what the workers send, prints it, tracks it, keeps the best checkpoint."""

from collections.abc import Callable
from typing import Any

from ray.train import Checkpoint

from metaug_ray.config import PretrainSettings
from metaug_ray.tracking.runs import RunTracker
from metaug_ray.training.messages import FailureMessages, post
from metaug_ray.training.progress_line import progress_line
from metaug_ray.training.run_folder import RunFolder


class Monitor:
    """Takes messages, one after the other.

    Args:
        settings: of the run.
        tracker: MLflow.
        folder: of the run.
        say: prints a line.
    """

    def __init__(
        self, settings: PretrainSettings, tracker: RunTracker, folder: RunFolder, say: Callable[[str], None]
    ) -> None:
        self._settings, self._tracker, self._folder, self._say = settings, tracker, folder, say
        self._collapsed = False
        self.restarts = 0
        """Failures of workers so far."""
        self.failure = ""
        """The last one."""

    def take(self, message: dict[str, Any]) -> None:
        """What :func:`~metaug_ray.training.messages.post` sent."""
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


class ControllerMessages(FailureMessages):
    """Tells the monitor besides when a checkpoint is whole."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            name = checkpoint.path.rstrip("/").rpartition("/")[2]
            accuracy = metrics[0].get("knn/accuracy")
            post(self._queue, "checkpoint", name=name, step=metrics[0]["step"], accuracy=accuracy)
