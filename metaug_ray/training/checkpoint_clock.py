"""When a checkpoint is due."""

import time
from typing import Final

import torch
import torch.distributed as dist

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.method import distributed

_STEPS_PER_LOOK: Final = 50


class CheckpointClock:
    """Says on all ranks alike when a checkpoint is due: by steps, or by the first rank's clock.

    Args:
        settings: of the run.
        device: of this rank.
        group: ranks that train together; None for the default group, or for this process alone where there is none.
    """

    def __init__(self, settings: PretrainSettings, device: torch.device, group: dist.ProcessGroup | None) -> None:
        self._settings, self._log_every = settings.checkpoint, settings.health.log_every
        self._device, self._group = device, group
        self.restart()

    def restart(self) -> None:
        """A checkpoint was just written."""
        self._began = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether one shall be written after `step` steps. A collective call."""
        every = self._settings.every_steps
        if every is not None and step % every == 0:
            return True
        # Clocks differ between ranks and asking costs a message, so they are asked every few steps.
        if self._settings.every_minutes is None or step % min(self._log_every, _STEPS_PER_LOOK):
            return False
        over = time.monotonic() - self._began >= 60 * self._settings.every_minutes
        answer = torch.tensor([float(over and distributed.rank(self._group) == 0)], device=self._device)
        return bool(distributed.all_reduce(answer, dist.ReduceOp.MAX, self._group).item())
