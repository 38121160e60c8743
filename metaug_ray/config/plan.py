"""Settings of `jobs/plan_capacity.py`: what is assumed of machines, beside the run that is planned."""

from collections.abc import Mapping
from typing import Annotated, Self

from pydantic import Field, model_validator

from metaug_ray.config.base import Positive, Settings
from metaug_ray.config.pretrain import PretrainSettings

_Count = Annotated[int, Field(ge=1, le=1_048_576)]
Points = Mapping[Annotated[int, Field(ge=1)], Positive]
"""Measurements by the number of images that one worker held."""


class HostSettings(Settings):
    """What grows on a worker's host with the images or the workers; measured on one CPU thread by
    `tests/benchmarks/host_costs.py`."""

    row_nanoseconds: Positive = 13.0
    """time to draw a number of the bank's first rows"""
    exchange_nanoseconds: Positive = 30.0
    """time of a step for each worker that there is and each row of the bank that one wants for its own images alone, to
    find out who owns which"""
    process_memory: Positive = 1.5
    """GiB of main memory that a worker takes without any images"""


class PlanSettings(Settings):
    """Machines that there may be. What is left out is taken from measurements of this package, or assumed; the plan
    says which."""

    gpus: tuple[_Count, ...] = Field((1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024), min_length=1)
    """numbers of GPUs, of which each is a line of the plan; each GPU has one worker"""
    images: int | None = Field(None, ge=2)
    """images of the data set; default: as many as data.beton has, or ImageNet's where there is no such file"""
    shards: int | None = Field(None, ge=1)
    """betons that the data set was dealt to; default: as data.beton, or 1 where there is no such file"""
    images_per_worker: int | None = Field(None, ge=1)
    """let the batch grow with the GPUs: so many images for each; default: all share training.batch_size"""
    step_seconds: Points | None = Field(None, min_length=1)
    """seconds of a mean step of one worker alone by its number of images, as JSON: '{"64": 0.25, "128": 0.4}'; default:
    measured on an H200, for three ResNet-50s at 224 px in bfloat16"""
    peak_memory: Points | None = Field(None, min_length=1)
    """GiB of GPU memory that a step takes at most, without the bank, by the number of images that go through the
    encoders at once, as JSON; default: measured likewise, or estimated for other networks"""
    gpu_memory: Positive = 139.0
    """GiB of GPU memory that a worker may fill"""
    gpus_per_node: int = Field(8, ge=1)
    """GPUs of a node"""
    cores_per_gpu: int | None = Field(None, ge=1)
    """CPU cores that decode images for a worker; default compute.cpus_per_worker, else 16"""
    node_memory: Positive = 2048.0
    """GiB of main memory of a node"""
    node_disk: Positive = 30_000.0
    """GB of a node's own disk"""
    local_bandwidth: Positive = 300.0
    """GB/s that a GPU sends to another one of its node"""
    node_bandwidth: Positive = 50.0
    """GB/s that a node sends to others, over all its links together"""
    latency: float = Field(10.0, ge=0)
    """microseconds until a message arrives"""
    overlap: float = Field(0.0, ge=0, le=1)
    """share of the gradients' time in the network that is hidden behind the backward pass"""
    images_per_core: Positive | None = None
    """images/s that one CPU core decodes; default: measured by tests/benchmarks/loading.py"""
    bytes_per_image: Positive | None = None
    """bytes that a stored image takes; default: as in data.beton, or 55 KiB where there is no such file"""
    disk_rate: Positive = 2.0
    """GB/s that a node's own disk reads and writes"""
    storage_rate: Positive = 5.0
    """GB/s that the shared storage reads and writes, for all nodes together"""
    price: float = Field(3.0, ge=0)
    """price of a GPU for an hour, in whatever currency"""
    efficiency: float = Field(0.9, gt=0, le=1)
    """share of the hours that is spent in steps; the rest goes to evaluations, checkpoints, restarts and stragglers"""
    host: HostSettings = HostSettings()
    """costs of a worker's host"""
    as_json: bool = False
    """print the plan as JSON"""

    @model_validator(mode="after")
    def _check(self) -> Self:
        repeated = sorted(count for count in set(self.gpus) if self.gpus.count(count) > 1)
        if repeated:
            raise ValueError(f"gpus: {repeated[0]} stands there more than once; give each number once")
        return self


class CapacitySettings(Settings):
    """A run, and machines that it may get."""

    run: PretrainSettings
    """the run"""
    plan: PlanSettings = PlanSettings()
    """the machines"""
