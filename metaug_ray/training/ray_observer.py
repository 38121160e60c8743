"""What the loop tells others, by Ray: measurements to the driver, checkpoints to the run's storage."""

import errno
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

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
from metaug_ray.runtime.words import duration
from metaug_ray.training.state import TrainingState

_log = logging.getLogger(__name__)

ROOM_PATIENCE: Final = 3600.0
"""Seconds that a checkpoint waits for room on the storage; training goes on until the next one is due."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_FULL: Final = {errno.ENOSPC, errno.EDQUOT}


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
            stored = self._stored(local, name)
        except BaseException as error:
            done.set_exception(error)
            raise
        done.set_result(None)
        return stored

    def _stored(self, local: Checkpoint, name: str) -> Checkpoint:
        """The checkpoint on the run's storage; where that is full, once there is room."""
        began, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                stored: Checkpoint = self._storage.persist_current_checkpoint(local, name)
                return stored
            except OSError as error:
                if error.errno not in _FULL or time.monotonic() - began > ROOM_PATIENCE:
                    raise
                if pause == _FIRST_PAUSE:
                    self._warn(
                        f"WARNING: the run's storage is full, and {name} waits for room, for {duration(ROOM_PATIENCE)} "
                        f"at most ({error}); training goes on until the next checkpoint is due; make room there"
                    )
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _warn(self, text: str) -> None:
        _log.warning(text)
        self.note(text)

    def _send(self, message: Message) -> None:
        if self._rank == 0:
            self._sent = post(self._queue, message)
