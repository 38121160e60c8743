"""What Ray Train's controller tells the driver of a run."""

from typing import Any

from ray.train import Checkpoint

from metaug_ray.runtime.mailbox import FailureMessages, post
from metaug_ray.runtime.messages import CheckpointWritten


class ControllerMessages(FailureMessages):
    """Tells the monitor besides when a checkpoint is whole."""

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Checkpoint | None) -> None:
        if checkpoint is not None:
            name = checkpoint.path.rstrip("/").rpartition("/")[2]
            post(self._queue, CheckpointWritten(name, metrics[0]["step"], metrics[0]))
