"""How long collectives take on given links."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from metaug_ray.capacity.traffic import GRADIENTS, Collective


@dataclass(frozen=True)
class Links:
    """What connects workers.

    Attributes:
        per_node: workers of a node.
        local: bytes/s that a worker sends to another one of its node.
        node: bytes/s that a node sends to others, over all its links together.
        latency: seconds until a message arrives.
        overlap: share of the gradients' time that is hidden behind the backward pass.
    """

    per_node: int
    local: float
    node: float
    latency: float
    overlap: float = 0.0

    def seconds(self, found: Iterable[Collective], workers: int) -> float:
        """Seconds of a step that workers wait for the network."""
        if workers == 1:
            return 0.0
        return sum(self._of(each, workers) * (1 - self.overlap * (each.name == GRADIENTS)) for each in found)

    def _of(self, each: Collective, workers: int) -> float:
        """Messages that wait for one another, and bytes.

        NCCL sends an all-reduce or broadcast along trees where latency counts, whose depth is log2 n, and along rings,
        of which each link of a node has one, where bytes count: then all its links together carry one tensor. An
        all-to-all and a gathering make a message for each other worker.
        """
        depth = math.ceil(math.log2(workers))
        match each.kind:
            case "all_reduce" | "reduce_gathered":
                messages = 2.0 * depth
            case "all_gather" | "all_to_all":
                messages = workers - 1
        return each.calls * messages * self.latency + self._bytes(each, workers)

    def _bytes(self, each: Collective, workers: int) -> float:
        sent = each.sent(workers)
        here = min(workers, self.per_node)
        inside = sent / self.local
        if workers == here:
            return inside
        if each.kind == "all_to_all":
            # Each worker of a node sends rows of its own out of it.
            return max(inside, here * sent * (workers - here) / (workers - 1) / self.node)
        return max(inside, sent / self.node)
