"""What a step takes of a device's memory, estimated before the first one from the networks and the batch."""

from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.config.training import OptimizerSettings
from metaug_ray.method.precision import autocast
from metaug_ray.runtime.device import autocast_dtype
from metaug_ray.runtime.networks import build_networks
from metaug_ray.training.capacity import bank_bytes, gpu_room
from metaug_ray.training.errors import TrainingError

_GIB: Final = 2.0**30
_PROBES: Final = (2, 4)
"""Images of two forward passes, between which all that grows with the images is told from what does not."""
_SURE: Final = 0.9
"""Share of the estimate that a device must have at least: on an H200 it was within 1 % of what was measured."""


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one worker's step.

    Attributes:
        fixed: parameters with their gradients, optimisers and copies, and casts of them.
        of_image: what the backward pass waits for, for each image that is in the encoders at a time.
        of_kept: what tangents wait for, for each image of a step in one part (`method.meta.keep_activations`).
        of_view: an image's views, for each image of the worker.
        of_contrast: similarities, likewise.
    """

    fixed: int
    of_image: int
    of_kept: int
    of_view: int
    of_contrast: int

    def bytes(self, images: int, parts: int) -> int:
        """Of so many images in so many parts (`training.accumulation`)."""
        kept = self.of_kept if parts == 1 else 0
        return self.fixed + self.of_image * (images // parts) + (kept + self.of_view + self.of_contrast) * images


def step_memory(settings: PretrainSettings) -> StepMemory:
    """The estimate for a run's settings, without computing anything: tensors have shapes alone.

    Compiled encoders (`compute.compile`) may take less.
    """
    training, method = settings.training, settings.method
    small, large = (_kept_by_encoders(settings, images) for images in _PROBES)
    of_image = (large - small) // (_PROBES[1] - _PROBES[0])
    with torch.device("meta"):
        networks, generators = build_networks(settings)
    meta = 2 if generators is not None else 0  # the parameters of another step and their gradient, or v
    fixed = small - _PROBES[0] * of_image
    fixed += _copies(networks.encoders, training.encoder, meta) + _copies(networks.heads, training.head, meta)
    if generators is not None:
        fixed += _copies(generators, training.generator, 2)
    views, size = settings.model.parsed_views, settings.data.image_size
    shown = 2 if method.generators and method.meta.schedule == "lookahead" else 1
    of_view = shown * sum(view.channels for view in views) * size**2 * torch.float32.itemsize
    negatives = settings.bank.negatives if method.targets == "bank" else training.batch_size
    tables = 6 if method.generators else 3  # similarities, and what two passes keep of them
    of_contrast = tables * len(views) * (len(views) - 1) * negatives * torch.float32.itemsize
    kept = method.meta.share if method.generators and method.meta.keep_activations else 0.0
    # A step that looks back, and is looked back at, holds copies of two steps' shares; wholes are the encoders' own.
    if method.meta.schedule == "lookahead" and method.meta.every == 1 and kept < 1:
        kept *= 2
    return StepMemory(fixed, of_image, round(of_image * kept), of_view, of_contrast)


def check_step_memory(settings: PretrainSettings, samples: int, workers: int, device: torch.device) -> None:
    """Whether a step fits the GPU of this worker, if it has one, or its share of it, beside its rows of the bank.

    Raises:
        TrainingError: by far not; the message says in how many parts it would.
    """
    if device.type != "cuda" or settings.compute.compile:
        return
    room = gpu_room(settings, device) - bank_bytes(settings, samples, workers)
    images, memory = settings.images_per_worker(workers), step_memory(settings)
    parts = settings.training.accumulation
    needed = memory.bytes(images, parts)
    if _SURE * needed <= room:
        return
    fits = (
        n for n in range(parts + 1, images + 1) if memory.bytes(images, n) <= room and _divides(settings, n, workers)
    )
    advice = next((f"use --training.accumulation {n}, which takes them in {n} parts" for n in fits), None)
    if memory.of_kept:
        without = "leave method.meta.keep_activations out"
        if replace(memory, of_kept=0).bytes(images, 1) <= room:
            advice = without
        elif advice is not None:
            advice = f"{without}, and {advice}"
    raise TrainingError(
        f"training.batch_size: a step of {images} images takes about {needed / _GIB:.1f} GiB on each worker, and its "
        f"GPU has {max(room, 0) / _GIB:.1f} GiB for it; "
        f"{advice or 'in parts (training.accumulation) it does not fit either'}; or use more workers"
    )


def _divides(settings: PretrainSettings, parts: int, workers: int) -> bool:
    """Whether a worker's images may be taken in so many parts."""
    training = settings.training.model_copy(update={"accumulation": parts})
    try:
        settings.model_copy(update={"training": training}).images_per_worker(workers)
    except ValueError:
        return False
    return True


def _kept_by_encoders(settings: PretrainSettings, images: int) -> int:
    """Bytes that the backward pass waits for after the forward pass of so many images."""
    size, kept = settings.data.image_size, dict[int, Tensor]()

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with FakeTensorMode():
        networks, _ = build_networks(settings)
        given = [torch.empty(images, view.channels, size, size) for view in settings.model.parsed_views]
        with (
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            autocast(torch.device("cpu"), autocast_dtype(settings.training.precision)),
        ):
            networks(given)
        others = {tensor.untyped_storage()._cdata for tensor in (*networks.parameters(), *given)}
        return sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in others)


def _copies(module: nn.Module, optimizer: OptimizerSettings, more: int) -> int:
    """Bytes of a module's parameters, their gradients, what the optimiser keeps of them, and so many copies more."""
    return (2 + optimizer.states + more) * sum(parameter.nbytes for parameter in module.parameters())
