"""Where the checks run and how large they are, and the rows that they yield."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from tests.gpu.case import Case

if TYPE_CHECKING:
    from tests.gpu.child import Child


@dataclass(frozen=True)
class Row:
    """A line of the table."""

    what: str
    measured: str
    verdict: str = "ok"
    """`ok`, `FAULT`, or `skipped: REASON`."""
    numbers: dict[str, float] = field(default_factory=dict)
    """What was measured, for results.json."""


def held(what: str, measured: str, holds: bool, **numbers: float) -> Row:
    """A row whose verdict is whether something holds."""
    return Row(what, measured, "ok" if holds else "FAULT", numbers)


def skipped(what: str, reason: str) -> Row:
    return Row(what, "", f"skipped: {reason}")


@dataclass(frozen=True)
class Sizes:
    """How much the checks compute."""

    large: Case
    """For time and memory."""
    small: Case
    """For what must be right over many steps."""
    gradient: Case
    """For the meta gradient. Its last maps are large enough for batch norm, or float32 itself would be far off."""
    memory: tuple[tuple[int, int], ...]
    """Batch sizes, and parts that each is taken in."""
    small_batch: int
    repeats: int
    """Measurements of a time, of which the median counts."""
    learning_steps: int
    """Steps of a run that learns."""
    rank_steps: int
    """Steps of a run with DDP, which is saved in the middle."""
    copied_bytes: int
    product: int
    """Side of the square matrices that are multiplied."""


FULL: Final = Sizes(
    large=Case(),
    small=Case("resnet18", size=64, rows=1024, negatives=1024, hidden=512),
    gradient=Case("resnet18", small_images=True, size=64, batch=16, rows=1024, negatives=1024, hidden=512),
    memory=((128, 1), (256, 1), (512, 1), (1024, 4)),
    small_batch=16,
    repeats=4,
    learning_steps=150,
    rank_steps=20,
    copied_bytes=2**32,
    product=8192,
)

TOY: Final = Case("conv", width=0.5, small_images=True, size=16, batch=16, rows=64, negatives=64, hidden=64)

QUICK: Final = Sizes(
    large=TOY,
    small=TOY,
    gradient=TOY,
    memory=((8, 1), (8, 2)),
    small_batch=4,
    repeats=2,
    learning_steps=6,
    rank_steps=4,
    copied_bytes=2**20,
    product=256,
)


@dataclass
class Setting:
    """Where and for how long the checks run."""

    device: torch.device
    folder: Path
    """Takes the results, the log, and what checks write."""
    quick: bool = False
    images: Path | None = None
    """What `tests/gpu/images.py` made."""
    deadline: float | None = None
    """Time of `time.monotonic` after which nothing more begins; None: there is none."""
    children: dict[str, "Child"] = field(default_factory=dict)
    """Processes that compile beside the checks, by name."""

    @property
    def gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def sizes(self) -> Sizes:
        return QUICK if self.quick else FULL

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return float("inf") if self.deadline is None else self.deadline - time.monotonic()

    def log(self, text: str) -> None:
        """Write to the log, which holds what is too long for the table."""
        with (self.folder / "log.txt").open("a", encoding="utf-8") as file:
            file.write(text.rstrip() + "\n\n")
