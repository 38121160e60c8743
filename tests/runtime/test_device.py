import pytest
import torch

from metaug_ray.runtime.device import prepare_device


@pytest.mark.parametrize(("share", "limits"), [(1.0, []), (0.25, [(0.25, torch.device("cuda", 0))])])
def test_a_worker_with_a_share_of_a_gpu_keeps_to_it(
    share: float, limits: list[tuple[float, torch.device]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch is told of a GPU that this machine need not have."""
    told: list[tuple[float, torch.device]] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda *limit: told.append(limit))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    prepare_device(torch.device("cuda", 0), 1, gpu_share=share)
    assert told == limits
