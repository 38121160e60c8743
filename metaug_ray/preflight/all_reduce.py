"""The all-reduce by which workers average their gradients, measured between all nodes, on all GPUs where there are."""

import datetime
import logging
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ray
import torch
import torch.distributed as dist
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from metaug_ray.preflight.cluster_nodes import Node
from metaug_ray.preflight.findings import CLUSTER, Failed, Finding, fault, judged
from metaug_ray.preflight.probes import attempted
from metaug_ray.preflight.waiting import wait_for
from metaug_ray.runtime.gloo_interface import choose_interface
from metaug_ray.runtime.words import counted, first_line

_log = logging.getLogger(__name__)
_SECONDS: Final = 1.0
"""For how long it is measured, about."""
_MOST: Final = 50
_BACKENDS: Final = {True: "nccl", False: "gloo"}


@dataclass(frozen=True)
class Group:
    """Workers that reduce together.

    Attributes:
        address: host:port at which they meet.
        world: number of them.
        gpu: whether each has a GPU.
        timeout: seconds that they wait for one another.
    """

    address: str
    world: int
    gpu: bool
    timeout: float


@dataclass(frozen=True)
class Measured:
    """Of an all-reduce.

    Attributes:
        latency: seconds for one number.
        bandwidth: of the bus, in MB/s, as NVIDIA's nccl-tests define it: what each worker sends, 2 (n - 1) / n times
            the bytes that are reduced, by the time.
    """

    latency: float
    bandwidth: float


class Worker:
    """One process of the group, on the node and the GPU that Ray gives it."""

    def address(self) -> str:
        """Where the group may meet, if this is its first worker; chosen as Ray Train does."""
        with socket.socket() as free:
            free.bind(("", 0))
            return f"{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def measure(self, rank: int, group: Group, size: int) -> Measured | Failed:
        """Reduce, together with all others; or why that cannot be done.

        Args:
            rank: of this worker.
            group: that it is one of.
            size: bytes that are reduced.
        """
        return attempted(_reduce, rank, group, size)


def _reduce(rank: int, group: Group, size: int) -> Measured:
    choose_interface()
    device = torch.device("cuda" if group.gpu else "cpu")
    dist.init_process_group(
        _BACKENDS[group.gpu],
        init_method=f"tcp://{group.address}",
        rank=rank,
        world_size=group.world,
        timeout=datetime.timedelta(seconds=group.timeout),
    )
    try:
        number, many = (torch.ones(count, device=device) for count in (1, max(size // 4, 1)))
        _timed(many, 1)  # connections are made at the first time
        latency = _timed(number, 5)
        once = _timed(many, 1)
        # All must do it equally often.
        times = torch.tensor([min(_SECONDS / once, _MOST)], device=device)
        dist.all_reduce(times, op=dist.ReduceOp.MIN)
        seconds = _timed(many, max(int(times.item()), 1))
        # A bus or a library that is broken adds wrongly, and says nothing.
        many.fill_(1)
        dist.all_reduce(many)
        if not bool((many == group.world).all()):
            raise ArithmeticError(f"the sum over {group.world} workers of ones is wrong")
    finally:
        dist.destroy_process_group()
    sent = 2 * (group.world - 1) / group.world * many.numel() * many.element_size()
    return Measured(latency, sent / seconds / 1e6)


def _timed(tensor: torch.Tensor, times: int) -> float:
    """Seconds of one all-reduce."""
    tensor.fill_(1)
    dist.barrier()
    began = time.perf_counter()
    for _ in range(times):
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return (time.perf_counter() - began) / times


def measure_all_reduce(nodes: Sequence[Node], *, gpu: bool, megabytes: int, timeout: float, least: float) -> Finding:
    """Measure between all nodes.

    Args:
        nodes: on which workers may run.
        gpu: one worker on each GPU; else one on each node.
        megabytes: that are reduced.
        timeout: seconds that it may take.
        least: bandwidth in MB/s.
    """
    places = [node for node in nodes for _ in range(int(node.resources["GPU"]) if gpu else 1)]
    check = f"all-reduce ({_BACKENDS[gpu]})"
    if len(places) < 2 and not gpu:
        return Finding(CLUSTER, check, "one worker, which has nobody to talk to")
    remote = ray.remote(num_cpus=0, num_gpus=int(gpu))(Worker)
    _log.info("%s: %s begin", check, counted(len(places), "worker"))
    workers = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)).remote()
        for node in places
    ]
    try:
        return _measured(check, workers, places, gpu, megabytes, timeout, least)
    finally:
        for worker in workers:
            ray.kill(worker)


def _measured(
    check: str, workers: Sequence[Any], places: Sequence[Node], gpu: bool, megabytes: int, timeout: float, least: float
) -> Finding:
    names = [node.name for node in places]
    came = dict(zip([worker.address.remote() for worker in workers], names, strict=True))
    if late := wait_for(check, came, timeout):
        return fault(CLUSTER, check, f"no worker within {timeout:g} s on {_named(late, came)}", _busy(gpu))
    try:
        first, *_ = ray.get(list(came))
    except Exception as error:
        return fault(CLUSTER, check, first_line(error), _busy(gpu))
    group = Group(first, len(workers), gpu, timeout)
    made = [worker.measure.remote(rank, group, megabytes * 10**6) for rank, worker in enumerate(workers)]
    calls = dict(zip(made, names, strict=True))
    late = wait_for(check, calls, timeout)
    try:
        told = {call: ray.get(call) for call in made if call not in late}
    except Exception as error:  # what Ray says of a worker that died
        return fault(CLUSTER, check, first_line(error), _advice(gpu))
    for call, own in told.items():
        if isinstance(own, Failed):
            return fault(CLUSTER, check, f"{calls[call]}: {own.why}", _advice(gpu))
    if late:
        return fault(CLUSTER, check, f"no end within {timeout:g} s on {_named(late, calls)}", _advice(gpu))
    return judge_all_reduce(check, list(told.values()), megabytes, least, gpu=gpu)


def judge_all_reduce(check: str, told: Sequence[Measured], megabytes: int, least: float, *, gpu: bool) -> Finding:
    """Whether the bandwidth is what is expected.

    Args:
        check: its name.
        told: by worker.
        megabytes: that were reduced.
        least: bandwidth in MB/s.
        gpu: whether the workers have GPUs.
    """
    latency, bandwidth = max(own.latency for own in told), min(own.bandwidth for own in told)
    if len(told) == 1:
        return Finding(CLUSTER, check, "one worker, which has nobody to talk to")
    shown = (
        f"{counted(len(told), 'worker')}, {megabytes} MB: {bandwidth:,.0f} MB/s of the bus; "
        f"{1e3 * latency:.2f} ms for one number"
    )
    return judged(CLUSTER, check, shown, bandwidth, least, _advice(gpu))


def _named(late: Sequence[Any], calls: Mapping[Any, str]) -> str:
    return ", ".join(dict.fromkeys(calls[call] for call in late))


def _busy(gpu: bool) -> str:
    held = "; other jobs may hold its GPUs, which `ray status` shows" if gpu else ""
    return f"see in `ray status` whether the node is still there{held}"


def _advice(gpu: bool) -> str:
    library, variable = ("NCCL", "NCCL_SOCKET_IFNAME") if gpu else ("gloo", "GLOO_SOCKET_IFNAME")
    return (
        f"where {library} takes another network interface than the one by which the nodes reach one another, set "
        f"{variable} to that one before `ray start` on each; open all ports between them"
    )
