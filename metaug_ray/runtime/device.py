"""What a process does with its device before it computes."""

import torch

from metaug_ray.config.model import Precision


def prepare_device(device: torch.device, cpus: int) -> torch.device:
    """Let PyTorch use its share of this machine, and no more; returns the device.

    Args:
        device: of this worker.
        cpus: number of CPUs that it may compute on.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    else:
        torch.set_num_threads(cpus)
    return device


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """What :func:`~metaug_ray.method.precision.autocast` takes for a setting; None: the tensors' own precision."""
    return torch.bfloat16 if precision == "bfloat16" else None
