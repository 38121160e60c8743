"""When a checkpoint is due."""

import time
from collections.abc import Callable
from typing import Final

import torch
import torch.distributed as dist

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.method import distributed

_SECONDS_PER_LOOK: Final = 2.0
_STEPS_PER_LOOK: Final = 50
"""At most."""


class CheckpointClock:
    """Says on all ranks alike when a checkpoint is due: by steps, by the first rank's clock, or as machines are about
    to be taken away.

    Args:
        settings: of the run.
        device: of this rank.
        group: ranks that train together; None for the default group, or for this process alone where there is none.
        notice: gives what is about to be taken away, the same on all ranks, None for nothing; a collective call. What
            it gives for the first time makes a checkpoint due.
    """

    def __init__(
        self,
        settings: PretrainSettings,
        device: torch.device,
        group: dist.ProcessGroup | None,
        notice: Callable[[], object] | None = None,
    ) -> None:
        self._settings = settings.checkpoint
        self._device, self._group, self._notice = device, group, notice
        self._noticed: object = None
        self._looked_at, self._next_look = time.monotonic(), 0
        self._last_look = 0
        self.restart()

    @property
    def noticed(self) -> bool:
        """Whether something is about to be taken away, as far as this rank was told."""
        return self._noticed is not None

    def restart(self) -> None:
        """A checkpoint was just written."""
        self._began = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether one shall be written after `step` steps. A collective call."""
        every = self._settings.every_steps
        by_steps = every is not None and step % every == 0
        if step < self._next_look or (self._settings.every_minutes is None and self._notice is None):
            return by_steps
        return self._look(step) or by_steps

    def _look(self, step: int) -> bool:
        """Agree on what this costs a message for, and on when to look again."""
        now = time.monotonic()
        minutes = self._settings.every_minutes
        over = minutes is not None and now - self._began >= 60 * minutes
        pace = (now - self._looked_at) / max(step - self._last_look, 1)
        wait = min(max(int(_SECONDS_PER_LOOK / max(pace, 1e-9)), 1), _STEPS_PER_LOOK)
        # Clocks differ between ranks: the first one's counts.
        first = distributed.rank(self._group) == 0
        answer = torch.tensor([float(over), float(wait)] if first else [0.0, 0.0], device=self._device)
        over_for_all, wait_for_all = distributed.all_reduce(answer, dist.ReduceOp.MAX, self._group).tolist()
        self._looked_at, self._last_look, self._next_look = now, step, step + int(wait_for_all)
        return bool(over_for_all) or self._new_notice()

    def _new_notice(self) -> bool:
        given = self._notice() if self._notice is not None else None
        new = given is not None and given != self._noticed
        self._noticed = given
        return new
