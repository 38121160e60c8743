"""Encoders that cannot be recorded are refused before the first step, and those that can are left as they were."""

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function

from metaug_ray.method import linearization, tangents
from metaug_ray.method.batch_norm import synchronize_batch_norm
from metaug_ray.method.encoders import MultiViewEncoder
from metaug_ray.method.linearization_check import check_linearization
from metaug_ray.method.tangents import batch_norm_tangent
from tests.method.test_compiled_tangents import drawn
from tests.ranks import run_ranks


class Small(nn.Module):
    """Features [1, B, 6] of images [B, 6], in a way that a test gives."""

    def __init__(self, way: "Callable[[Small, Tensor], Tensor]") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.first, self.second, self.norm = nn.Linear(6, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.kernel = torch.rand(6, 6)

    def forward(self, images: list[Tensor]) -> SimpleNamespace:
        return SimpleNamespace(features=self.way(self, images[0])[None])


class Twice(Function):
    @staticmethod
    def forward(ctx: object, inputs: Tensor) -> Tensor:
        return inputs * 2

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return 2 * gradients[0]

    @staticmethod
    def jvp(ctx: object, *tangents: Tensor) -> Tensor:
        return 2 * tangents[0]


def relu_for_nothing(network: Small, x: Tensor) -> Tensor:
    hidden = network.first(x)
    F.relu_(hidden)
    return network.second(hidden)


def written_into(network: Small, x: Tensor) -> Tensor:
    whole = torch.zeros(len(x), 6)
    whole[:, 1:] = network.first(x)[:, 1:]
    return network.second(whole)


REFUSED: dict[str, Callable[[Small, Tensor], Tensor]] = {
    "plain attribute": lambda network, x: (
        network.second(F.linear(network.first(x), network.kernel).sin()) + x @ network.kernel
    ),
    "dropout": lambda network, x: network.second(F.dropout(network.first(x), 0.5)),
    "random numbers": lambda network, x: network.second(network.first(x) * torch.rand(6)),
    "mask": lambda network, x: network.second(network.first(x)) * (network.first(x) > 0),
    "chosen by value": lambda network, x: network.second(network.first(x))[:, network.first(x).sum(0).argsort()],
    "in place and ignored": relu_for_nothing,
    "written into": written_into,
    "a function of its own": lambda network, x: network.second(Twice.apply(network.first(x).sin()).sin()),
    "by keywords": lambda network, x: F.linear(input=network.first(x).sin(), weight=network.second.weight),
    "read as a number": lambda network, x: network.second(network.first(x)) * network.first(x).sum().item(),
}

REFUSED_ON_PARTS: dict[str, Callable[[Small, Tensor], Tensor]] = {
    "over the images": lambda network, x: network.second(network.first(x).softmax(0)),
    "by their number": lambda network, x: network.second(network.first(x)) + network.first(x) * x.shape[0],
    "weights of as many rows": lambda network, x: F.linear(x, F.normalize(network.first.weight[[*range(6), 0, 1]]))[
        :, :6
    ],
}

TAKEN: dict[str, Callable[[Small, Tensor], Tensor]] = {
    "batch norm": lambda network, x: network.second(network.norm(network.first(x)).relu()),
    "products of activations": lambda network, x: network.second(network.first(x).sigmoid() * network.first(x)),
}


def check(way: Callable[[Small, Tensor], Tensor], *, parts: bool = True) -> None:
    check_linearization(Small(way), [drawn(8, 6, seed=1, dtype=torch.float32)], parts=parts)


@pytest.mark.parametrize("name", REFUSED)
def test_what_comes_out_wrong_is_refused(name: str) -> None:
    with pytest.raises(NotImplementedError):
        check(REFUSED[name], parts=False)


@pytest.mark.parametrize("name", REFUSED_ON_PARTS)
def test_what_mixes_images_is_refused_on_parts_alone(name: str) -> None:
    check(REFUSED_ON_PARTS[name], parts=False)
    with pytest.raises(NotImplementedError):
        check(REFUSED_ON_PARTS[name])


def test_batch_norm_is_held_against_pytorchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not against the same lines of ours."""

    def forgets_weights(
        inputs: Tensor, gamma: Tensor, tangents: tuple[Tensor, ...], *rest: Tensor, training: bool
    ) -> Any:
        return batch_norm_tangent(inputs, gamma, (tangents[0], None, None), *rest, training=training)

    for module in (linearization, tangents):
        monkeypatch.setattr(module, "batch_norm_tangent", forgets_weights)
    with pytest.raises(NotImplementedError, match="tangents of all images come out wrong"):
        check(TAKEN["batch norm"])


@pytest.mark.parametrize("name", TAKEN)
def test_what_can_be_recorded_is_taken(name: str) -> None:
    check(TAKEN[name])


def test_the_encoder_stays_as_it_was() -> None:
    torch.manual_seed(0)
    encoder = MultiViewEncoder(("l", "ab"), "resnet18", width=0.5, small_images=True)
    before, random = deepcopy(encoder.state_dict()), torch.get_rng_state()
    check_linearization(encoder, [drawn(8, c, 16, 16, seed=c, dtype=torch.float32) for c in (1, 2)], parts=True)
    assert all(module.training for module in encoder.modules())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert torch.equal(torch.get_rng_state(), random)


def test_synchronised_batch_norm_is_taken(tmp_path: Path) -> None:
    """Each rank has images of its own."""
    run_ranks(2, tmp_path, _check_synchronised)


def _check_synchronised(rank: int) -> None:
    torch.manual_seed(0)
    encoder = MultiViewEncoder(("l", "ab"), "resnet18", width=0.5, small_images=True)
    synchronize_batch_norm(encoder)
    images = [drawn(8, c, 16, 16, seed=10 * rank + c, dtype=torch.float32) for c in (1, 2)]
    check_linearization(encoder, images, parts=True)
