"""How many workers a job has, and what each gets; refused at once, with the arithmetic, where the cluster is too small.

Ray itself would wait for ever for what a cluster cannot hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from metaug_ray.runtime.errors import ClusterError

_UNITS: Final = 10_000
"""In how many parts Ray divides a resource: it rounds to these, so a third three times is one."""

Resources = Mapping[str, float]
"""What one node has in all, by Ray's names: CPU, GPU, memory (bytes)."""


@dataclass(frozen=True)
class Placement:
    """Workers of a job.

    Attributes:
        counts: how many there may be, ascending: one number, or several where training is elastic.
        cpus: of each worker.
        gpu: whether each has a GPU.
        gpu_share: how much of one it takes, where it has one.
    """

    counts: tuple[int, ...]
    cpus: int
    gpu: bool
    gpu_share: float = 1.0

    @property
    def workers(self) -> int:
        """The most that there may be."""
        return self.counts[-1]

    @property
    def min_workers(self) -> int:
        """The least."""
        return self.counts[0]

    @property
    def worker(self) -> dict[str, float]:
        """What one worker gets, by Ray's names."""
        return {"CPU": self.cpus} | ({"GPU": self.gpu_share} if self.gpu else {})

    @property
    def device(self) -> str:
        """Device of a worker that is a Ray task, by torch's name."""
        return "cuda" if self.gpu else "cpu"

    @property
    def backend(self) -> str:
        """Of `torch.distributed`."""
        return "nccl" if self.gpu else "gloo"


def place_workers(
    device: str,
    workers: int | None,
    cpus_per_worker: int | None,
    nodes: Sequence[Resources],
    *,
    min_workers: int | None = None,
    gpus_per_worker: float = 1.0,
) -> Placement:
    """Choose how many workers there are and what each gets, where the settings `compute.*` leave it open.

    Raises:
        ClusterError: the cluster cannot hold them.
    """
    gpus, cpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("GPU", "CPU"))
    if device == "gpu" and not gpus:
        raise ClusterError(f"compute.device: gpu, but the cluster has none ({_described(nodes)}); set it to cpu")
    gpu = device == "gpu" or (device == "auto" and gpus > 0)
    useful = [node for node in nodes if node.get("GPU" if gpu else "CPU", 0) >= 1]
    if not useful:
        raise ClusterError(f"the cluster has no CPUs ({_described(nodes)}); wait for its nodes, or start some")
    workers = workers or (gpus if gpu else len(useful))
    # An elastic run starts with what there is, from its least on.
    least = min_workers or workers
    field = "compute.min_workers" if min_workers else "compute.workers"

    if gpu and least > gpus:
        raise ClusterError(
            f"{field}: {least} workers x 1 GPU = {least} GPUs, but the cluster has {gpus} "
            f"({_described(nodes)}); ask for at most {gpus}"
        )
    share = cpus_per_worker or _equal_share(workers, useful, gpu, gpus_per_worker)
    fitting = sum(workers_that_fit(node, share, gpu, gpus_per_worker) for node in useful)
    if least > fitting:
        less = ", or set compute.cpus_per_worker lower" if share > 1 else ", or add nodes"
        with_gpu = f" and {gpus_per_worker:g} GPU" if gpu else ""
        raise ClusterError(
            f"{field}: {least} workers x {share} CPUs{with_gpu} = {least * share} CPUs, "
            f"but the cluster has room for {fitting} of them in {cpus} CPUs ({_described(nodes)}); ask for fewer "
            f"workers{less}"
        )
    return Placement(tuple(range(least, workers + 1)), share, gpu, gpus_per_worker if gpu else 1.0)


def _equal_share(workers: int, nodes: Sequence[Resources], gpu: bool, gpu_share: float) -> int:
    """CPUs for each worker, so that all fit; where workers share GPUs, as many as the GPUs have room for."""
    if gpu:
        return max(1, min(int(node.get("CPU", 0) // _by_gpu(node, gpu_share)) for node in nodes))
    share = max(int(node["CPU"]) for node in nodes)
    while share > 1 and sum(workers_that_fit(node, share, gpu) for node in nodes) < workers:
        share -= 1
    return share


def workers_that_fit(node: Resources, cpus: int, gpu: bool, gpu_share: float = 1.0) -> int:
    """Workers that a node has room for.

    Args:
        node: what it has.
        cpus: of each worker.
        gpu: whether each has a GPU.
        gpu_share: how much of one it takes then.
    """
    by_cpu = int(node.get("CPU", 0) // cpus)
    return min(by_cpu, _by_gpu(node, gpu_share)) if gpu else by_cpu


def _by_gpu(node: Resources, share: float) -> int:
    """Workers that a node's GPUs have room for. None has parts of two."""
    return int(node.get("GPU", 0)) * (_UNITS // round(share * _UNITS))


def _described(nodes: Sequence[Resources]) -> str:
    parts = [f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes[:4]]
    more = f" and {len(nodes) - 4} nodes more" if len(nodes) > 4 else ""
    return (
        f"nodes of {'; '.join(parts)}{more}" if len(nodes) > 1 else f"one node of {parts[0]}" if parts else "no nodes"
    )
