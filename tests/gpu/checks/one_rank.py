"""A process group of one rank: DDP changes nothing, a checkpoint in the middle changes nothing, no memory stays."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.nn.parallel import DistributedDataParallel

from metaug_ray.method.algorithm import MetAug
from metaug_ray.method.encoders import MultiViewEncoder
from tests.gpu.case import Case, make_bank, make_metaug, make_minibatch, make_model
from tests.gpu.room import free_memory
from tests.gpu.setting import Row, Setting, held
from tests.gpu.switches import switched

KEPT_BAR = 64 * 2**20
"""Bytes that may stay allocated: workspaces of cuBLAS."""


def one_rank(setting: Setting) -> Iterator[Row]:
    free_memory()
    before = _used_bytes(setting)
    with switched(torch.backends.cudnn, deterministic=True):
        yield from _compared(setting)
    free_memory()
    if setting.gpu:
        tensors, all_of_it = (after - earlier for after, earlier in zip(_used_bytes(setting), before, strict=True))
        measured = f"{tensors / 2**20:+.0f} MiB of tensors, {all_of_it / 2**20:+.0f} MiB of the GPU in all"
        yield held("memory that stays", measured, tensors <= KEPT_BAR, tensors=tensors, all_of_it=all_of_it)


def _compared(setting: Setting) -> Iterator[Row]:
    case = replace(setting.sizes.small, batch=setting.sizes.gradient.batch, bfloat16=False, delta=0.1, alpha=0.1)
    steps = range(setting.sizes.rank_steps)
    middle = len(steps) // 2
    alone = _train(make_metaug(case, setting.device), case, setting, steps)
    again = _train(make_metaug(case, setting.device), case, setting, steps)
    # What two equal runs differ by, if the GPU adds in another order each time.
    noise = _difference(again, alone)
    with _group_of_one(setting) as (backend, gloo), tempfile.TemporaryDirectory() as folder:
        metaug = make_metaug(
            case, setting.device, model=make_model(case, setting.device, lambda its: _ddp(its, setting))
        )
        first = _train(metaug, case, setting, steps[:middle])
        dcp_save(_state(metaug), checkpoint_id=folder, process_group=gloo)
        wrapped = torch.cat([first, _train(metaug, case, setting, steps[middle:])])
        yield _equal(f"{len(steps)} steps with DDP on {backend}, and without", wrapped, alone, noise)

        # Other networks, and a bank of the same seed, which its draws depend on, with rows before training.
        other, bank = replace(case, seed=1), make_bank(case, setting.device)
        model = make_model(other, setting.device, lambda its: _ddp(its, setting))
        loaded = make_metaug(other, setting.device, bank=bank, model=model)
        _load(loaded, Path(folder), gloo)
        rest = _train(loaded, case, setting, steps[middle:])
        yield _equal(f"{len(steps) - middle} steps from a checkpoint, and without", rest, alone[middle:], noise)


def _train(metaug: MetAug, case: Case, setting: Setting, steps: range) -> Tensor:
    """Loss and norms of gradients of each step, [steps, 4]."""
    seen = []
    for step in steps:
        outcome = metaug.step(step, make_minibatch(case, setting.device, step))
        seen.append(torch.stack([outcome.losses.total, *outcome.norms]))
    return torch.stack(seen)


def _equal(what: str, seen: Tensor, expected: Tensor, noise: float) -> Row:
    difference = _difference(seen, expected)
    numbers = {"difference": difference, "noise": noise}
    if torch.equal(seen, expected):
        return Row(what, "equal bit for bit", numbers=numbers)
    bar = max(10 * noise, 1e-5)
    measured = f"differ by {difference:.1e} of the loss or a norm, two equal runs by {noise:.1e} (bar {bar:.0e})"
    return held(what, measured, difference <= bar, **numbers)


def _difference(seen: Tensor, expected: Tensor) -> float:
    """The greatest relative difference."""
    return float(((seen - expected).abs() / expected.abs()).max())


def _ddp(networks: MultiViewEncoder, setting: Setting) -> nn.Module:
    """As `metaug_ray.training.state` wraps the encoder of several ranks."""
    device_ids = [setting.device] if setting.gpu else None
    return DistributedDataParallel(networks, device_ids=device_ids, gradient_as_bucket_view=True)


def _modules(metaug: MetAug) -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
    encoder, generators = metaug.model.eager_encoder, metaug.model.generators
    assert generators is not None
    assert metaug.head_optimizer is not None
    assert metaug.generator_optimizer is not None
    return {
        "encoders": (encoder.encoders, metaug.encoder_optimizer),
        "heads": (encoder.heads, metaug.head_optimizer),
        "generators": (generators, metaug.generator_optimizer),
    }


def _state(metaug: MetAug) -> dict[str, Any]:
    state: dict[str, Any] = {"bank": metaug.targets}
    for name, (module, optimizer) in _modules(metaug).items():
        state[name] = module.state_dict()
        state[f"{name}/optimizer"] = get_optimizer_state_dict(module, optimizer)
    return state


def _load(metaug: MetAug, folder: Path, group: dist.ProcessGroup) -> None:
    state = _state(metaug)
    dcp_load(state, checkpoint_id=folder, process_group=group)
    for name, (module, optimizer) in _modules(metaug).items():
        module.load_state_dict(state[name])
        set_optimizer_state_dict(module, optimizer, state[f"{name}/optimizer"])


@contextmanager
def _group_of_one(setting: Setting) -> Iterator[tuple[str, dist.ProcessGroup]]:
    """The default group, of this process alone, and one of it that communicates over gloo."""
    backend = "nccl" if setting.gpu else "gloo"
    # A machine without a network has no other interface, and may not know its own name.
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        os.environ.setdefault(variable, "lo")
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(
            backend, init_method=f"file://{folder}/rendezvous", rank=0, world_size=1, timeout=timedelta(seconds=60)
        )
        try:
            gloo = dist.new_group(backend="gloo")
            assert isinstance(gloo, dist.ProcessGroup)
            yield backend, gloo
        finally:
            dist.destroy_process_group()


def _used_bytes(setting: Setting) -> tuple[int, int]:
    """Of the GPU: by tensors, and by all."""
    if not setting.gpu:
        return 0, 0
    free, total = torch.cuda.mem_get_info(setting.device)
    return torch.cuda.memory_allocated(setting.device), total - free
