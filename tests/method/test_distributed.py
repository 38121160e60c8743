"""Collectives without a process group: one rank of one. Over ranks: see test_ranks_equal_one_process."""

import torch
import torch.distributed as dist

from metaug_ray.method import distributed


def test_alone_nothing_is_communicated() -> None:
    tensor = torch.tensor([1.0, 2.0])
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert torch.equal(distributed.all_reduce(tensor.clone(), dist.ReduceOp.MIN), tensor)
    averaged = tensor.clone()
    distributed.average([averaged])
    assert torch.equal(averaged, tensor)
    assert torch.equal(distributed.all_gather_equal(tensor, torch.device("cpu")), tensor)
    assert torch.equal(distributed.exchange(tensor, [2], [2]), tensor)
