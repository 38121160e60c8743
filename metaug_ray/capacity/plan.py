"""A whole plan: a line for each number of GPUs, disks, assumptions, and where the design ends."""

from collections.abc import Sequence
from dataclasses import dataclass

from metaug_ray.capacity.assumptions import Assumption, assumptions_of
from metaug_ray.capacity.data_set import data_set_of
from metaug_ray.capacity.disk import Disk, disk_of
from metaug_ray.capacity.limits import Limit, Outlook, limits_of
from metaug_ray.capacity.lines import Known, Line, Refused, line_of
from metaug_ray.capacity.sizes import sizes_of
from metaug_ray.capacity.worker import worker_of
from metaug_ray.config.plan import CapacitySettings


@dataclass(frozen=True)
class Plan:
    """What a run will take.

    Attributes:
        run: name of the run.
        method: the paper's name for its method.
        images: of the data set.
        epochs: of the run.
        lines: by the number of GPUs.
        disk: what is independent of it.
        limits: where the design ends.
        assumptions: that the plan rests on.
    """

    run: str
    method: str
    images: int
    epochs: int
    lines: Sequence[Line | Refused]
    disk: Disk
    limits: Sequence[Limit]
    assumptions: Sequence[Assumption]


def make_plan(settings: CapacitySettings) -> Plan:
    """The plan for a run's settings.

    Raises:
        PlanError: the time of a step is not known.
        DataError: the beton is there and cannot be read.
    """
    run = settings.run
    known = Known(settings, data_set_of(settings), sizes_of(run), worker_of(settings))
    lines = [line_of(known, gpus) for gpus in sorted(settings.plan.gpus)]
    begun = [line for line in lines if isinstance(line, Line)]
    refused = [line for line in lines if isinstance(line, Refused)]
    disk = disk_of(known)
    return Plan(
        run=run.name,
        method=run.method.variant,
        images=known.data.images,
        epochs=run.training.epochs,
        lines=lines,
        disk=disk,
        limits=limits_of(Outlook(known, begun, refused, disk)),
        assumptions=assumptions_of(known),
    )
