import pytest
import torch
from torch import nn

from metaug_ray.method.buffers import SavedBuffers, fixed_buffers


def test_statistics_come_back_and_parameters_do_not() -> None:
    norm = nn.BatchNorm1d(4)
    norm(torch.randn(8, 4))
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    saved = SavedBuffers(norm, None)
    saved.save()
    norm(torch.randn(8, 4) + 3)
    with torch.no_grad():
        norm.weight.fill_(2)
    assert not torch.equal(norm.get_buffer("running_mean"), before["running_mean"])
    saved.restore()
    torch.testing.assert_close(dict(norm.named_buffers()), before, rtol=0, atol=0)
    assert (norm.weight == 2).all()


class Counting(nn.Module):
    """A module with a buffer of its own kind."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        out: torch.Tensor = self.norm(x)
        return out


def test_fixed_buffers_do_not_move_and_batch_norm_is_as_in_training() -> None:
    module = Counting()
    x = torch.randn(8, 4) + 3
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    with fixed_buffers(module, None):
        fixed = module(x)
    torch.testing.assert_close(dict(module.named_buffers()), before, rtol=0, atol=0)
    assert torch.equal(fixed, module(x))
    assert module.passes == 1
    assert module.norm.num_batches_tracked == 1
    # What is frozen goes on as it is, and stays frozen.
    module.eval()
    frozen = module(x)
    with fixed_buffers(module):
        assert torch.equal(module(x), frozen)
    assert module.norm.track_running_stats


def test_buffers_are_free_again_after_a_failure() -> None:
    module = Counting()
    with pytest.raises(RuntimeError), fixed_buffers(module):
        module(torch.randn(8, 5))
    module(torch.randn(8, 4))
    assert module.norm.num_batches_tracked == 1
