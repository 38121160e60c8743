"""What an anchor is compared with: rows of a memory bank, the other views of the batch, or neighbours in a support set.

Each is one of :class:`~metaug_ray.method.targets.targets.Targets`, which states what all of them promise.
"""

from metaug_ray.method.targets.batch import BatchTargets
from metaug_ray.method.targets.memory_bank import MemoryBank
from metaug_ray.method.targets.neighbours import NeighbourTargets
from metaug_ray.method.targets.targets import Keys, Sample, Targets

__all__ = ["BatchTargets", "Keys", "MemoryBank", "NeighbourTargets", "Sample", "Targets"]
