"""What a process does with its device before it computes."""

import torch

from metaug_ray.config.model import Precision
from metaug_ray.runtime.placement import Placement


def prepare_device(device: torch.device, cpus: int, *, gpu_share: float = 1.0, tune: bool = False) -> torch.device:
    """Let PyTorch use its share of this machine, and no more; returns the device.

    Args:
        device: of this worker.
        cpus: number of CPUs that it may compute on.
        gpu_share: how much of the GPU's memory it may take: Ray counts shares, and does not hold anybody to them.
        tune: try the algorithms of each convolution on a GPU and take the fastest, which may be another one, and round
            otherwise, in the next process.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = tune
        if gpu_share < 1:
            # What takes more than its share fails by itself, not a run beside it.
            torch.cuda.set_per_process_memory_fraction(gpu_share, device)
    else:
        torch.set_num_threads(cpus)
    return device


def prepare_task(placement: Placement) -> torch.device:
    """Do so for a worker that is a Ray task."""
    return prepare_device(torch.device(placement.device), placement.cpus, gpu_share=placement.gpu_share)


def autocast_dtype(precision: Precision) -> torch.dtype | None:
    """What :func:`~metaug_ray.method.precision.autocast` takes for a setting; None: the tensors' own precision."""
    return torch.bfloat16 if precision == "bfloat16" else None
