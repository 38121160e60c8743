"""Collectives without a process group: one rank of one; and broadcasts. Others over ranks: see
test_ranks_equal_one_process."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from metaug_ray.method import distributed
from tests.ranks import run_ranks


def test_alone_nothing_is_communicated() -> None:
    tensor = torch.tensor([1.0, 2.0])
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert torch.equal(distributed.all_reduce(tensor.clone(), dist.ReduceOp.MIN), tensor)
    averaged = tensor.clone()
    distributed.average([averaged])
    assert torch.equal(averaged, tensor)
    assert torch.equal(distributed.all_gather_equal(tensor, torch.device("cpu")), tensor)
    assert torch.equal(distributed.exchange(tensor, [2], [2]), tensor)


def module(rank: int) -> nn.Module:
    """Three types, in an order of memory that is not that of the numbers; what a rank has tells of it."""
    made = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    made.register_buffer("seen", torch.tensor([True, rank > 0]))
    made.register_buffer("none", torch.empty(0))
    for place, tensor in enumerate((*made.parameters(), *made.buffers())):
        values = torch.arange(tensor.numel()).view(tensor.shape) + 100 * place + 1000 * rank
        if tensor.dtype != torch.bool:
            tensor.data.copy_(values)
    return made


def broadcast(rank: int, bucket: int) -> tuple[dict[str, Any], dict[str, Any], int]:
    """A module of which the buffers, and one of which all was broadcast, and how many messages the first took."""
    calls = []
    send = dist.broadcast
    dist.broadcast = lambda *args, **kwargs: calls.append(send(*args, **kwargs))  # type: ignore[assignment]
    distributed._BUCKET = bucket  # type: ignore[misc]
    some, whole = module(rank), module(rank)
    distributed.broadcast_buffers(some)
    messages = len(calls)
    distributed.broadcast_module(whole)
    return some.state_dict(), whole.state_dict(), messages


def test_buffers_go_in_one_message_for_each_type(tmp_path: Path) -> None:
    expected = module(0).state_dict()
    for bucket, messages in ((2**20, 3), (32, 4)):
        for rank, (some, whole, sent) in enumerate(run_ranks(2, tmp_path / f"{bucket}", broadcast, bucket)):
            assert sent == messages
            for name, value in expected.items():
                assert torch.equal(whole[name], value), name
                kept = module(rank).state_dict() if name.endswith(("weight", "bias")) else expected
                assert torch.equal(some[name], kept[name]), name
