from typing import Any

import pytest
import torch

from metaug_ray.config import PretrainSettings
from metaug_ray.runtime.placement import Placement
from metaug_ray.training.capacity import bank_bytes, check_gpu_memory, place
from metaug_ray.training.errors import TrainingError

GIB = 2.0**30
CPU_NODE = {"CPU": 4.0, "memory": 8 * GIB}
GPU_NODE = {"CPU": 32.0, "GPU": 4.0, "memory": 256 * GIB}


def settings(batch: int = 128, **compute: Any) -> PretrainSettings:
    return PretrainSettings.model_validate(
        {"data": {"beton": "/x.beton"}, "training": {"batch_size": batch}, "compute": compute}
    )


def test_an_elastic_run_starts_with_what_there_is() -> None:
    # Started again after half of its nodes were lost.
    chosen = settings(batch=840, workers=8, min_workers=4, cpus_per_worker=8)
    assert place(chosen, [GPU_NODE], 10_000) == Placement((4, 5, 6, 7, 8), 8, True)


def test_an_elastic_run_has_the_numbers_of_workers_that_its_batch_divides_by() -> None:
    chosen = settings(batch=1024, workers=8, min_workers=3, cpus_per_worker=4)
    assert place(chosen, [GPU_NODE], 10_000).counts == (4, 8)
    with pytest.raises(ValueError, match="1024 images among 7 workers"):
        settings(batch=1024, workers=7, min_workers=5)


def test_the_batch_must_divide_among_the_workers_that_the_cluster_has() -> None:
    with pytest.raises(TrainingError, match=r"128 images among 3 workers leave each 42.6667; .* such as 129"):
        place(settings(), [CPU_NODE] * 3, 10_000)
    with pytest.raises(TrainingError, match=r"batch_size: 128 images, but /x.beton holds 100"):
        place(settings(), [CPU_NODE], 100)


def test_the_bank_must_fit() -> None:
    """ImageNet's rows, three views, 128 numbers: 1.8 GiB."""
    assert bank_bytes(settings(), 1_281_167, 8) == 160_146 * 3 * 128 * 4
    small = {"CPU": 4.0, "memory": 1 * GIB}
    with pytest.raises(
        TrainingError,
        match=r"1,281,167 images x 3 encoders x 128 numbers, over 1 worker, take 1.8 GiB for each, and 1 of them is",
    ):
        place(settings(), [small], 1_281_167)
    assert place(settings(), [small] * 2, 1_281_167).workers == 2
    # Two on one node share its memory.
    with pytest.raises(
        TrainingError, match=r"over 2 workers, take 0.9 GiB for each, and 2 of them are on a node of 1.0 GiB"
    ):
        place(settings(workers=2), [small], 1_281_167)


def test_the_bank_must_fit_into_the_share_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """ImageNet's rows, 1.8 GiB, on a GPU of 6 GiB that this machine need not have."""
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4 * GIB, 6 * GIB))
    for share in (1, 0.5):
        check_gpu_memory(settings(workers=1, gpus_per_worker=share), 1_281_167, 1, gpu)
    with pytest.raises(
        TrainingError,
        match=r"1.8 GiB of this worker's memory, and 0.25 of its GPU have 1.5 GiB free; use a larger share, bank",
    ):
        check_gpu_memory(settings(workers=1, gpus_per_worker=0.25), 1_281_167, 1, gpu)
    # Others have taken theirs, or more.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 * GIB, 6 * GIB))
    with pytest.raises(TrainingError, match=r"0.5 of its GPU have 1.0 GiB free"):
        check_gpu_memory(settings(workers=1, gpus_per_worker=0.5), 1_281_167, 1, gpu)
    with pytest.raises(TrainingError, match=r"its GPU has 1.0 GiB free; use more workers, bank"):
        check_gpu_memory(settings(workers=1), 1_281_167, 1, gpu)


def test_more_workers_do_not_help_a_support_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 * GIB, 6 * GIB))
    chosen = PretrainSettings.model_validate(
        {
            "data": {"beton": "/x.beton"},
            "model": {"views": ("rgb", "rgb.2")},
            "method": {"targets": "neighbours"},
            "support": {"size": 10_000_000},
        }
    )
    with pytest.raises(TrainingError, match=r"has all, take 4.8 GiB .* has 1.0 GiB free; use support.precision bfloat"):
        check_gpu_memory(chosen, 50_000, 1, torch.device("cuda", 0))


def test_a_run_takes_the_share_that_is_set() -> None:
    assert place(settings(workers=1, gpus_per_worker=0.5), [GPU_NODE], 10_000).worker == {"CPU": 4, "GPU": 0.5}
