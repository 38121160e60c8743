"""What the loop tells others, by Ray: measurements to the driver, checkpoints to the run's storage."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.exceptions
import ray.train
import torch.distributed as dist
from ray.train import Checkpoint, CheckpointUploadMode
from ray.util.queue import Queue

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.runtime.checkpoint import snapshot, write
from metaug_ray.runtime.mailbox import post
from metaug_ray.runtime.messages import Histograms, Measured, Message, Note
from metaug_ray.runtime.run_folder import checkpoint_name
from metaug_ray.training.state import TrainingState


class RayObserver:
    """An :class:`~metaug_ray.training.loop.Observer` of one worker.

    Args:
        settings: of the run.
        queue: to the driver.
        record: that each checkpoint carries.
        group: all workers, for checkpoints alone.
    """

    def __init__(
        self, settings: PretrainSettings, queue: Queue, record: dict[str, Any], group: dist.ProcessGroup
    ) -> None:
        context = ray.train.get_context()
        self._rank, self._storage = context.get_world_rank(), context.get_storage()
        self._queue, self._record, self._group = queue, record, group
        self._mode = CheckpointUploadMode.ASYNC if settings.checkpoint.asynchronous else CheckpointUploadMode.SYNC
        # In Ray's folder for this run on this node, which goes with Ray's session.
        self._partial = Path.cwd() / f"checkpoint-of-worker-{self._rank}"
        self._writing: Future[None] | None = None
        self._sent: Any = None

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self._send(Measured(step, dict(values)))

    def histograms(self, step: int, values: Mapping[str, Sequence[float]]) -> None:
        self._send(Histograms(step, values))

    def note(self, text: str) -> None:
        self._send(Note(text))

    def save(self, state: TrainingState, metrics: Mapping[str, float]) -> None:
        if self._writing is not None:
            # One at a time: two would mix their messages on the group.
            self._writing.result()
        copied = snapshot(state, self._group)
        self._writing = Future()
        ray.train.report(
            {**metrics, "step": state.step},
            checkpoint=Checkpoint.from_directory(self._partial),
            checkpoint_dir_name=checkpoint_name(state.step),
            checkpoint_upload_mode=self._mode,
            checkpoint_upload_fn=partial(self._write, copied, self._record | {"step": state.step}, self._writing),
            delete_local_checkpoint_after_upload=True,
        )

    def flush(self) -> None:
        """Wait until the driver has what was sent, if there still is one."""
        if self._sent is not None:
            with suppress(ray.exceptions.RayError):
                ray.get(self._sent)

    def _write(
        self, copied: dict[str, Any], record: dict[str, Any], done: "Future[None]", local: Checkpoint, name: str
    ) -> Checkpoint:
        try:
            write(copied, self._partial, record, self._group, rank=self._rank)
            stored: Checkpoint = self._storage.persist_current_checkpoint(local, name)
        except BaseException as error:
            done.set_exception(error)
            raise
        done.set_result(None)
        return stored

    def _send(self, message: Message) -> None:
        if self._rank == 0:
            self._sent = post(self._queue, message)
