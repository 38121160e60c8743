"""Runs a function on several gloo processes of this machine."""

import os
from collections.abc import Callable
from multiprocessing import set_forkserver_preload
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def run_ranks(world_size: int, folder: Path, function: Callable[..., Any], *args: Any) -> list[Any]:
    """Call `function(rank, *args)` in a group of `world_size` new processes; returns what each gave, by rank."""
    folder.mkdir(parents=True, exist_ok=True)
    # Processes forked from one that has imported what takes seconds, and started no threads.
    set_forkserver_preload(["tests.training.small"])
    arguments = (world_size, folder, function, args)
    mp.start_processes(_rank, arguments, nprocs=world_size, start_method="forkserver")
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in range(world_size)]


def _rank(rank: int, world_size: int, folder: Path, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder / 'rendezvous'}", rank=rank, world_size=world_size)
    try:
        torch.save(function(rank, *args), folder / f"rank{rank}.pt")
    finally:
        dist.destroy_process_group()
