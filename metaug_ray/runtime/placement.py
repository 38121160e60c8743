"""How many workers a job has, and what each gets; refused at once, with the arithmetic, where the cluster is too small.

Ray itself would wait for ever for what a cluster cannot hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from metaug_ray.runtime.errors import ClusterError

Resources = Mapping[str, float]
"""What one node has in all, by Ray's names: CPU, GPU, memory (bytes)."""


@dataclass(frozen=True)
class Placement:
    """Workers of a job.

    Attributes:
        workers: how many; the most, where training is elastic.
        min_workers: the least.
        cpus: of each worker.
        gpu: whether each has a GPU.
    """

    workers: int
    min_workers: int
    cpus: int
    gpu: bool

    @property
    def worker(self) -> dict[str, int]:
        """What one worker gets, by Ray's names."""
        return {"CPU": self.cpus} | ({"GPU": 1} if self.gpu else {})

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
    share = cpus_per_worker or _equal_share(workers, useful, gpu)
    fitting = sum(workers_that_fit(node, share, gpu) for node in useful)
    if least > fitting:
        less = ", or set compute.cpus_per_worker lower" if share > 1 else ", or add nodes"
        raise ClusterError(
            f"{field}: {least} workers x {share} CPUs{' and 1 GPU' if gpu else ''} = {least * share} CPUs, "
            f"but the cluster has room for {fitting} of them in {cpus} CPUs ({_described(nodes)}); ask for fewer "
            f"workers{less}"
        )
    return Placement(workers, least, share, gpu)


def _equal_share(workers: int, nodes: Sequence[Resources], gpu: bool) -> int:
    """CPUs for each worker, so that all fit."""
    if gpu:
        return max(1, min(int(node.get("CPU", 0) // max(1, node["GPU"])) for node in nodes))
    share = max(int(node["CPU"]) for node in nodes)
    while share > 1 and sum(workers_that_fit(node, share, gpu) for node in nodes) < workers:
        share -= 1
    return share


def workers_that_fit(node: Resources, cpus: int, gpu: bool) -> int:
    """Workers that a node has room for."""
    by_cpu = int(node.get("CPU", 0) // cpus)
    return min(by_cpu, int(node.get("GPU", 0))) if gpu else by_cpu


def _described(nodes: Sequence[Resources]) -> str:
    parts = [f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes[:4]]
    more = f" and {len(nodes) - 4} nodes more" if len(nodes) > 4 else ""
    return (
        f"nodes of {'; '.join(parts)}{more}" if len(nodes) > 1 else f"one node of {parts[0]}" if parts else "no nodes"
    )
