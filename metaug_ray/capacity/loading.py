"""What the loader asks of a worker's CPUs and main memory."""

from dataclasses import dataclass
from typing import Final

from metaug_ray.config.plan import CapacitySettings
from metaug_ray.config.pretrain import PretrainSettings

_SMALL: Final = 64
_CORES: Final = 16
_TWO_CROPS: Final = 1.35
"""Times the CPU time of one crop (tests/benchmarks/crops.py)."""


@dataclass(frozen=True)
class Cores:
    """The CPU cores that decode for a worker.

    Attributes:
        count: how many there are.
        rate: images/s of each.
        rate_from: where that is from, in words.
    """

    count: int
    rate: float
    rate_from: str


def cores_of(settings: CapacitySettings) -> Cores:
    """The cores that the settings give, with what one was measured to decode.

    JPEGs of ImageNet to crops of 224 px: 864 images/s on two cores; raw pixels of 32 px: 178,000
    (docs/results.md#speed-of-preparing-and-loading).
    """
    run, plan = settings.run, settings.plan
    count = plan.cores_per_gpu or run.compute.cpus_per_worker or _CORES
    if plan.images_per_core is not None:
        return Cores(count, plan.images_per_core, "given")
    if run.data.image_size <= _SMALL:
        return Cores(count, 89_000 * (32 / run.data.image_size) ** 2, "raw pixels of 32 px (docs/results.md), by area")
    return Cores(count, 432.0, "ImageNet's JPEGs at 224 px (docs/results.md)")


def loaded_per_image(run: PretrainSettings) -> float:
    """Images that are decoded to one crop, in time, for each one of a step: more where the meta step has its own, or
    where there is a second crop; fewer where a batch is used for several steps."""
    separate = run.method.generators and run.method.meta.schedule == "separate"
    decoded = 1 / run.training.updates_per_batch + (1 / run.method.meta.every if separate else 0)
    return decoded * (_TWO_CROPS if run.model.crops == 2 else 1)
