import torch
from torch import nn

from metaug_ray.method.buffers import SavedBuffers


def test_statistics_come_back_and_parameters_do_not() -> None:
    norm = nn.BatchNorm1d(4)
    norm(torch.randn(8, 4))
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}
    saved = SavedBuffers(norm, None)
    norm(torch.randn(8, 4) + 3)
    with torch.no_grad():
        norm.weight.fill_(2)
    assert not torch.equal(norm.get_buffer("running_mean"), before["running_mean"])
    saved.restore()
    torch.testing.assert_close(dict(norm.named_buffers()), before, rtol=0, atol=0)
    assert (norm.weight == 2).all()
