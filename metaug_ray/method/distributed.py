"""The few collectives of the method. Every function takes `group=None` for the default group, or for none at all:

without an initialised process group a function sees one rank of one and communicates nothing.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

_BUCKET: Final = 2**28
"""Bytes that are broadcast at once, which need as much memory."""


def world_size(group: dist.ProcessGroup | None = None) -> int:
    """Number of ranks in the group."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def rank(group: dist.ProcessGroup | None = None) -> int:
    """This process's rank in the group."""
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


def all_reduce(tensor: Tensor, op: dist.ReduceOp.RedOpType, group: dist.ProcessGroup | None = None) -> Tensor:
    """Reduce `tensor` in place over the ranks and return it. Not differentiated."""
    if world_size(group) > 1:
        dist.all_reduce(tensor, op, group)
    return tensor


def average(tensors: Iterable[Tensor], group: dist.ProcessGroup | None = None) -> None:
    """Replace every tensor by its mean over the ranks, in place, in one collective for all of them."""
    listed = list(tensors)
    if world_size(group) == 1 or not listed:
        return
    flat = torch.cat([tensor.flatten() for tensor in listed])
    dist.all_reduce(flat, dist.ReduceOp.SUM, group)
    flat /= world_size(group)
    for tensor, mean in zip(listed, flat.split([tensor.numel() for tensor in listed]), strict=True):
        tensor.copy_(mean.view_as(tensor))


def broadcast(tensors: Iterable[Tensor], group: dist.ProcessGroup | None = None, via: str | None = None) -> None:
    """Replace every tensor by that of the group's first rank, in place: one collective for each type and 256 MiB.

    Args:
        tensors: the same ones in the same order on all ranks, by shape and type.
        group: ranks that have them.
        via: type of the device that the group's backend communicates from; None where the tensors lie there.
    """
    if world_size(group) == 1:
        return
    for bucket in _buckets(tensors, via):
        flat = torch.cat([tensor.detach().to(via or tensor.device).flatten() for tensor in bucket])
        # Backends differ in the types that they know, but not in bytes.
        dist.broadcast(flat.view(torch.uint8), group=group, group_src=0)
        for tensor, value in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.detach().copy_(value.view(tensor.shape))


def _buckets(tensors: Iterable[Tensor], via: str | None) -> Iterator[list[Tensor]]:
    """Tensors that may be sent as one."""
    alike: dict[tuple[torch.dtype, torch.device | str], list[Tensor]] = {}
    for tensor in tensors:
        if tensor.numel():
            alike.setdefault((tensor.dtype, via or tensor.device), []).append(tensor)
    for several in alike.values():
        bucket: list[Tensor] = []
        for tensor in several:
            if bucket and sum(other.nbytes for other in bucket) + tensor.nbytes > _BUCKET:
                yield bucket
                bucket = []
            bucket.append(tensor)
        yield bucket


def broadcast_module(module: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Give every rank the parameters and buffers of the group's first rank, as DDP does with the module it wraps."""
    broadcast([*module.parameters(), *module.buffers()], group)


def broadcast_buffers(module: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Give every rank the buffers (batch-norm statistics) of the group's first rank."""
    broadcast(module.buffers(), group)


def all_gather_equal(tensor: Tensor, device: torch.device, group: dist.ProcessGroup | None = None) -> Tensor:
    """Concatenate the ranks' tensors, rank by rank, on the CPU; all must have one shape.

    Args:
        tensor: on the CPU.
        device: a device that the group's backend can communicate from (NCCL: a GPU, which costs one small
            synchronisation).
    """
    if world_size(group) == 1:
        return tensor
    gathered = torch.empty(world_size(group), *tensor.shape, dtype=tensor.dtype, device=device)
    dist.all_gather_single(gathered, tensor.to(device).unsqueeze(0), group)
    return gathered.flatten(0, 1).cpu()


def exchange(rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup | None = None) -> Tensor:
    """Send `sent[r]` consecutive rows to each rank r and return the `received[r]` rows that each rank sent here."""
    return start_exchange(rows, sent, received, group)()


def start_exchange(
    rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup | None = None
) -> Callable[[], Tensor]:
    """As :func:`exchange`, which goes on in the background; what it returns waits for it."""
    if world_size(group) == 1:
        return lambda: rows
    into, out = rows.new_empty(sum(received), *rows.shape[1:]), rows.contiguous()
    work = dist.all_to_all_single(into, out, received, sent, group, async_op=True)
    return partial(_finish, work, into, out)


def start_sum(tensor: Tensor, group: dist.ProcessGroup | None = None) -> Callable[[], Tensor]:
    """The sum of the ranks' tensors, made in place in the background; what it returns waits for it."""
    if world_size(group) == 1:
        return lambda: tensor
    return partial(_finish, dist.all_reduce(tensor, dist.ReduceOp.SUM, group, async_op=True), tensor)


def _finish(work: dist.Work, made: Tensor, *_sent: Tensor) -> Tensor:
    """Wait for a collective. What it sends has to live until then."""
    work.wait()
    return made


def sharded(
    part: Tensor, dim: int, group: dist.ProcessGroup | None = None, *, shape: torch.Size | None = None
) -> Tensor:
    """The tensor of all ranks' parts, rank by rank along `dim`: a `DTensor`; for a process alone its part as it is.

    Args:
        part: of this rank.
        dim: along which the parts lie.
        group: ranks that have one.
        shape: of the whole, where the parts are not all of one size.
    """
    if world_size(group) == 1:
        return part
    chosen = group or dist.group.WORLD
    assert chosen is not None  # as there are several ranks
    mesh = DeviceMesh.from_group(chosen, part.device.type)
    stride = None if shape is None else torch.empty(shape, device="meta").stride()
    return DTensor.from_local(part, mesh, [Shard(dim)], run_check=False, shape=shape, stride=stride)


def local_part(tensor: Any) -> Any:
    """This rank's part of what :func:`sharded` gives."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
