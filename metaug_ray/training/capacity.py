"""Whether machines can hold a run: its workers, its batch and its memory bank."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.runtime.placement import Placement, Resources, place_workers, workers_that_fit
from metaug_ray.runtime.words import counted
from metaug_ray.training.errors import TrainingError

if TYPE_CHECKING:
    import torch

_GIB: Final = 2.0**30
_BYTES: Final = {"float32": 4, "bfloat16": 2}


def place(settings: PretrainSettings, nodes: Sequence[Resources], samples: int) -> Placement:
    """Choose what the settings leave open of where a run's workers run.

    Args:
        settings: of the run.
        nodes: the cluster's.
        samples: N, images in the data set.

    Raises:
        ClusterError: the cluster cannot hold the workers.
        TrainingError: it cannot hold the memory bank, or the batch does not divide among the workers.
    """
    compute = settings.compute
    placement = place_workers(
        compute.device,
        compute.workers,
        compute.cpus_per_worker,
        nodes,
        min_workers=compute.min_workers,
        gpus_per_worker=compute.gpus_per_worker,
    )
    try:
        placement = replace(placement, counts=settings.dividing(placement.counts))
    except ValueError as error:
        raise TrainingError(str(error)) from error
    if samples < settings.training.batch_size:
        raise TrainingError(
            f"training.batch_size: {settings.training.batch_size} images, but {settings.data.beton} holds {samples:,}; "
            "use a smaller batch or more images"
        )
    if not placement.gpu:
        _check_memory(settings, nodes, placement.min_workers, placement.cpus, samples)
    return placement


def bank_bytes(settings: PretrainSettings, samples: int, workers: int) -> int:
    """Memory of the rows of bank or support set that each of so many workers holds."""
    row = len(settings.model.encoders) * settings.model.feature_size
    match settings.method.targets:
        case "bank":
            return -(-samples // workers) * row * _BYTES[settings.bank.precision]
        case "neighbours":
            return settings.support.size * row * _BYTES[settings.support.precision]
        case "batch":
            return 0


def gpu_room(settings: PretrainSettings, device: "torch.device") -> float:
    """Bytes of its GPU that a worker may still take, or of its share of it."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return min(free, settings.compute.gpus_per_worker * total)


def check_gpu_memory(settings: PretrainSettings, samples: int, workers: int, device: "torch.device") -> None:
    """Whether this worker's GPU, if it has one, or its share of it, has room for its rows of the bank.

    Raises:
        TrainingError: it has not.
    """
    if device.type != "cuda":
        return
    share, room = settings.compute.gpus_per_worker, gpu_room(settings, device)
    needed = bank_bytes(settings, samples, workers)
    if needed > room:
        gpu, more = (
            ("its GPU has", "more workers, ") if share == 1 else (f"{share:g} of its GPU have", "a larger share, ")
        )
        if share == 1 and settings.method.targets == "neighbours":
            more = ""  # each of them would have as much
        raise TrainingError(
            f"{_rows(settings, samples)} take {needed / _GIB:.1f} GiB of this worker's memory, and {gpu} "
            f"{room / _GIB:.1f} GiB free; use {more}{_smaller(settings)}"
        )


def _check_memory(
    settings: PretrainSettings, nodes: Sequence[Resources], workers: int, cpus: int, samples: int
) -> None:
    share = bank_bytes(settings, samples, workers)
    for node in nodes:
        here = min(workers, workers_that_fit(node, cpus, gpu=False))
        memory = node.get("memory", float("inf"))
        if here * share > memory:
            are = "is" if here == 1 else "are"
            raise TrainingError(
                f"{_rows(settings, samples)}, over {counted(workers, 'worker')}, take {share / _GIB:.1f} GiB for each, "
                f"and {here} of them {are} on a node of {memory / _GIB:.1f} GiB; add nodes, or use {_smaller(settings)}"
            )


def _rows(settings: PretrainSettings, samples: int) -> str:
    """What takes the memory, in words."""
    if settings.method.targets == "neighbours":
        return f"support.size: {settings.support.size:,} features, of which each worker has all,"
    row = f"{counted(len(settings.model.encoders), 'encoder')} x {settings.model.feature_size} numbers"
    return f"bank: the rows of {samples:,} images x {row}"


def _smaller(settings: PretrainSettings) -> str:
    """What makes it less."""
    if settings.method.targets == "neighbours":
        return "support.precision bfloat16, or a smaller support.size or model.feature_size"
    return "bank.precision bfloat16, or a smaller model.feature_size"
