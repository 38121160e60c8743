"""How long is trained, and with what optimisers."""

from typing import Literal, Self

from pydantic import Field, model_validator

from metaug_ray.config.base import Positive, Settings
from metaug_ray.config.model import Precision


class OptimizerSettings(Settings):
    """One optimiser; the defaults are the authors'."""

    kind: Literal["sgd", "adam", "lars"] = "sgd"
    """optimiser: sgd has momentum; adam decays weights as AdamW; lars scales sgd by layer, for large batches"""
    learning_rate: Positive = 0.03
    """learning rate at the full height of the schedule"""
    momentum: float = Field(0.9, ge=0, lt=1)
    """momentum of sgd and lars"""
    weight_decay: float = Field(1e-4, ge=0, lt=1)
    """l2 penalty (sgd, lars), or decoupled decay (adam)"""
    decay_norm_and_bias: bool = True
    """decay the parameters of batch norm and biases too; lars never scales those"""
    maximize: bool = False
    """raise the objective instead of lowering it (sgd, adam): generators that do so are adversaries of the encoders"""

    @property
    def states(self) -> int:
        """Tensors of a parameter's size that it keeps for each."""
        return 2 if self.kind == "adam" else int(self.momentum > 0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.maximize and self.kind == "lars":
            raise ValueError("maximize: lars only lowers what it is given; use sgd or adam")
        return self


class ScheduleSettings(Settings):
    """The learning rate over the run, as a factor of each optimiser's."""

    kind: Literal["step", "cosine", "constant"] = "step"
    """course of the learning rate after the warm-up"""
    warmup_epochs: float = Field(0.0, ge=0)
    """epochs of linear rise from 0"""
    milestones: tuple[float, ...] = (120.0, 160.0, 200.0)
    """epochs at which the factor shrinks (step)"""
    decay: float = Field(0.1, gt=0, lt=1)
    """factor at each milestone (step)"""
    final: float = Field(0.0, ge=0, lt=1)
    """factor at the end (cosine)"""


class TrainingSettings(Settings):
    """How long and with what optimisers."""

    epochs: int = Field(240, ge=1, le=100_000)
    """passes over the data"""
    batch_size: int = Field(128, ge=2)
    """images per step over all workers together"""
    updates_per_batch: int = Field(1, ge=1, le=100)
    """steps on each batch in a row, with other negatives each time; an epoch then has so many times the steps"""
    accumulation: int = Field(1, ge=1)
    """parts in which each worker takes its share of a batch through the encoders, to save memory; batch norm sees a
    part"""
    sync_batch_norm: bool = False
    """let batch norm see the images of all workers, not of each by itself: where a worker has few of them"""
    precision: Precision = "bfloat16"
    """arithmetic of the encoders; bfloat16 is mixed precision (autocast)"""
    encoder: OptimizerSettings = OptimizerSettings()
    """optimiser of the encoders"""
    head: OptimizerSettings = OptimizerSettings()
    """optimiser of the projection heads"""
    generator: OptimizerSettings = OptimizerSettings()
    """optimiser of the generators"""
    schedule: ScheduleSettings = ScheduleSettings()
    """schedule of all learning rates"""
    clip_norm: Positive | None = None
    """greatest l2 norm of the gradient of encoders and heads, and of that of the generators; none: no clipping"""
    nonfinite_limit: int = Field(20, ge=1)
    """steps in a row with a loss or gradient that is not finite after which the run stops; each is skipped and
    counted"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.schedule.warmup_epochs > self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs: got {self.schedule.warmup_epochs:g}, more than the {self.epochs} epochs; "
                "give fewer, or more training.epochs"
            )
        for part in ("encoder", "head"):
            if getattr(self, part).maximize:
                raise ValueError(f"{part}.maximize: only generators may raise what they are given; leave it out")
        milestones = self.schedule.milestones
        if list(milestones) != sorted(set(milestones)) or min(milestones, default=0) < 0:
            raise ValueError(
                f"schedule.milestones: got {', '.join(f'{m:g}' for m in milestones)}; expected epochs in rising order"
            )
        return self
