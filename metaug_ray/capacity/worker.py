"""What one worker was measured to take: seconds and memory of its step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from metaug_ray.capacity.errors import PlanError
from metaug_ray.config.plan import CapacitySettings
from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.training.memory import step_memory

MEASURED_ON: Final = "three ResNet-50s at 224 px in bfloat16 on one H200 (docs/gpu.md)"

_GIB: Final = 2.0**30

# Seconds of a step by its images: docs/gpu.md, where the greater ones are given as images/s.
_PLAIN: Final = {128: 0.101, 256: 256 / 1422, 512: 512 / 1542}
_FUSED: Final = {16: 0.245, 128: 0.353, 256: 256 / 393, 512: 512 / 422}
_SEPARATE: Final = 455 / 353
"""Times a fused step, with 128 images."""
_BANK: Final = 100_000 * 3 * 128 * 4 / _GIB
"""GiB of the bank that these figures of memory contain."""
_PLAIN_MEMORY: Final = {128: 16.8 - _BANK, 256: 32.6 - _BANK, 512: 64.2 - _BANK}
_META_MEMORY: Final = {128: 17.6 - _BANK, 256: 33.6 - _BANK, 512: 65.5 - _BANK}


@dataclass(frozen=True)
class Worker:
    """Time and memory of one worker alone, by its images.

    Attributes:
        seconds: of a mean step.
        memory: GiB, without the bank, by the images that go through the encoders at once.
    """

    seconds: Mapping[int, float]
    memory: Mapping[int, float]

    @property
    def least(self) -> int:
        """The least number of images whose time was measured."""
        return min(self.seconds)

    def step(self, images: int) -> float:
        """Seconds of a mean step of so many images.

        Between measurements on the line through both, above them on the line through the last two (or in proportion, if
        there is one). Below them as long as the shortest: a GPU with few images waits for its host.
        """
        if images <= self.least:
            return self.seconds[self.least]
        return _on_the_line(self.seconds, images)

    def step_memory(self, run: PretrainSettings, images: int) -> float:
        """GiB of a step of so many images, without the bank. Only a part of them is in the encoders at a time, where
        `accumulation` says so, but all of them wait there as float32 views."""
        part = images // run.training.accumulation
        channels = sum(view.channels for view in run.model.parsed_views)
        waiting = (images - part) * channels * run.data.image_size**2 * 4
        return _on_the_line(self.memory, part) + waiting / _GIB


def worker_of(settings: CapacitySettings) -> Worker:
    """The worker that the settings give, or the one that was measured.

    Raises:
        PlanError: the run has other networks than those that were measured, and no time of a step is given.
    """
    run, plan = settings.run, settings.plan
    measured = is_measured(run)
    if plan.step_seconds is None and not measured:
        model = run.model
        raise PlanError(
            f"plan.step_seconds: not given, and what is known is of {MEASURED_ON}, while this run has "
            f"{len(model.views)} x {model.encoder} (width {model.width:g}) at {run.data.image_size} px in "
            f"{run.training.precision}; let one worker train for a few minutes, and give what its log says "
            "(seconds per step = images / images/s), such as --plan.step-seconds '{\"128\": 0.4}'"
        )
    seconds = plan.step_seconds or _mean_seconds(run)
    if plan.peak_memory is not None:
        return Worker(seconds, plan.peak_memory)
    if measured:
        return Worker(seconds, _META_MEMORY if run.method.generators else _PLAIN_MEMORY)
    return Worker(seconds, estimated_memory(run))


def estimated_memory(run: PretrainSettings) -> dict[int, float]:
    """GiB of steps of two sizes, from the networks alone."""
    memory = step_memory(run)
    return {images: memory.bytes(images, 1) / _GIB for images in (1, 1024)}


def is_measured(run: PretrainSettings) -> bool:
    """Whether a run has the networks that were measured."""
    model = run.model
    networks = (model.encoder, model.width, model.small_images, len(model.views))
    return (*networks, run.data.image_size, run.training.precision) == ("resnet50", 1.0, False, 3, 224, "bfloat16")


def _mean_seconds(run: PretrainSettings) -> dict[int, float]:
    if not run.method.generators:
        return _PLAIN
    meta = run.method.meta
    times = _SEPARATE if meta.schedule == "separate" else 1.0
    plain = Worker(_PLAIN, _PLAIN_MEMORY)
    return {
        images: plain.step(images) + (times * fused - plain.step(images)) / meta.every
        for images, fused in _FUSED.items()
    }


def _on_the_line(points: Mapping[int, float], images: int) -> float:
    """The value at `images` of the line through the measurements on both sides of it, or the nearest two."""
    known = sorted(points)
    if len(known) == 1:
        return points[known[0]] * images / known[0]
    right = next((place for place in range(1, len(known) - 1) if images <= known[place]), len(known) - 1)
    low, high = known[right - 1], known[right]
    return points[low] + (points[high] - points[low]) * (images - low) / (high - low)
