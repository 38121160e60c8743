"""What a run takes of disks: nodes' own ones and the shared storage."""

from dataclasses import dataclass

from metaug_ray.capacity.lines import GB, Known


@dataclass(frozen=True)
class Disk:
    """Bytes and seconds.

    Attributes:
        beton: bytes of the data set, as it lies in the shared storage and, staged, on each node's own disk.
        checkpoint: bytes of one.
        replicated: bytes of it that do not grow with the data set.
        kept: checkpoints in the storage at a time: those that stay, the best one, and the next while it is written.
        stored: bytes of these and of the beton.
        checkpoint_seconds: to write one to the shared storage.
        read_seconds: to read the beton on a node's own disk once.
    """

    beton: float
    checkpoint: int
    replicated: int
    kept: int
    stored: float
    checkpoint_seconds: float
    read_seconds: float


def disk_of(known: Known) -> Disk:
    """For the run's data set and networks."""
    plan, run = known.settings.plan, known.settings.run
    beton, checkpoint = known.data.bytes, known.sizes.checkpoint(known.data.images)
    kept = run.checkpoint.keep + 2
    return Disk(
        beton=beton,
        checkpoint=checkpoint,
        replicated=known.sizes.replicated,
        kept=kept,
        stored=kept * checkpoint + beton,
        checkpoint_seconds=checkpoint / (plan.storage_rate * GB),
        read_seconds=beton / (plan.disk_rate * GB),
    )


def staging_seconds(known: Known, nodes: int) -> float:
    """Seconds until each of so many nodes has copied the beton, or its shards of it, to its own disk."""
    plan = known.settings.plan
    return known.data.bytes_on(nodes) / (min(plan.disk_rate, plan.storage_rate / nodes) * GB)
