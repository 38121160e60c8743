"""The estimate of a step's memory: against what an H200 was measured to take, and against real passes."""

from typing import Any

import pytest
import torch

from metaug_ray.config import PretrainSettings
from metaug_ray.runtime.networks import build_networks
from metaug_ray.training.errors import TrainingError
from metaug_ray.training.memory import check_step_memory, step_memory
from tests.training.small import merged

GIB = 2.0**30
SMALL = {
    "data": {"image_size": 32},
    "model": {"views": ("l", "ab"), "encoder": "conv", "small_images": True, "width": 0.5},
    "training": {"precision": "float32"},
}


def settings_of(*changes: dict[str, Any], images: int = 128) -> PretrainSettings:
    given: dict[str, Any] = {"data": {"beton": "/x.beton"}, "training": {"batch_size": images}}
    for each in changes:
        given = merged(given, each)
    return PretrainSettings.model_validate(given)


PLAIN = {"method": {"generators": False}}


@pytest.mark.parametrize(
    ("changes", "images", "parts", "measured"),
    [
        (PLAIN, 128, 1, 16.8),
        (PLAIN, 512, 1, 64.2),
        (PLAIN, 1024, 4, 33.8),
        ({}, 128, 1, 17.6),
        ({}, 256, 1, 33.6),
        ({}, 512, 1, 65.5),
        ({}, 1024, 4, 34.9),
    ],
)
def test_is_what_an_h200_was_measured_to_take(
    changes: dict[str, Any], images: int, parts: int, measured: float
) -> None:
    """Three ResNet-50s at 224 px in bfloat16, docs/gpu.md; with a bank of 100,000 images."""
    estimate = step_memory(settings_of(changes)).bytes(images, parts) + 100_000 * 3 * 128 * 4
    assert estimate / GIB == pytest.approx(measured, rel=0.05)


def test_is_what_real_tensors_of_a_backward_pass_take() -> None:
    """Tensors that live after the forward pass and not before, by autograd's own word."""
    settings = settings_of(SMALL, PLAIN)
    networks, _ = build_networks(settings)
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    sizes = []
    for images in (8, 16):
        kept.clear()
        given = [torch.randn(images, channels, 32, 32) for channels in (1, 2)]
        others = {tensor.data_ptr() for tensor in (*networks.parameters(), *given)}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            networks(given)
        sizes.append(sum(t.untyped_storage().nbytes() for place, t in kept.items() if place not in others))
    assert step_memory(settings).of_image == (sizes[1] - sizes[0]) / 8


def test_a_step_that_does_not_fit_is_refused_with_the_parts_that_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (24 * GIB, 25 * GIB))
    gpu = torch.device("cuda", 0)
    check_step_memory(settings_of(images=128), 50_000, 1, gpu)
    check_step_memory(settings_of(images=512), 50_000, 4, gpu)
    check_step_memory(settings_of({"training": {"accumulation": 4}}, images=512), 50_000, 1, gpu)
    with pytest.raises(
        TrainingError,
        match=r"a step of 512 images takes about 6\d\.\d GiB on each worker, and its GPU has 23\.9 GiB for it; "
        r"use --training.accumulation 4, which takes them in 4 parts; or use more workers",
    ):
        check_step_memory(settings_of(images=512), 50_000, 1, gpu)
    kept = {"method": {"meta": {"keep_activations": True}}}
    check_step_memory(settings_of(kept, images=64), 50_000, 1, gpu)
    for images, advice in (
        (128, "out; or use"),
        (512, "out, and use --training.accumulation 4, which takes them in 4"),
    ):
        with pytest.raises(TrainingError, match=f"leave method.meta.keep_activations {advice}"):
            check_step_memory(settings_of(kept, images=images), 50_000, 1, gpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0.5 * GIB, 25 * GIB))
    with pytest.raises(TrainingError, match=r"in parts \(training.accumulation\) it does not fit either"):
        check_step_memory(settings_of(images=512), 50_000, 1, gpu)
