"""Tangents from recorded activations against dual numbers, which compute everything again."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metaug_ray.encoder_table import ENCODERS, EncoderName
from metaug_ray.method.encoders import MultiViewEncoder
from metaug_ray.method.linearization import WHOLE, Linearization, Part
from tests.method.small import freeze_batch_norm
from tests.method.test_compiled_tangents import by_dual_numbers, case, drawn

DEEP = {"layers": 2, "hidden_size": 16, "prediction_hidden_size": 16}


def recorded(encoder: MultiViewEncoder, images: list[Tensor], part: Part = WHOLE) -> Linearization:
    linearization = Linearization(encoder, part)
    with linearization.recording(images):
        encoder(images).features.sum().backward()  # which is done with the activations
    return linearization


@pytest.mark.parametrize("head", [{}, DEEP])
@pytest.mark.parametrize("small_images", [True, False])
@pytest.mark.parametrize("name", ENCODERS)
def test_they_are_those_of_dual_numbers(name: EncoderName, small_images: bool, head: dict[str, int]) -> None:
    """Of every encoder that there is, at parameters that have moved since."""
    torch.manual_seed(0)
    encoder = MultiViewEncoder(("l", "rgb", "rgb.2"), name, width=0.5, small_images=small_images, head=head).double()
    _, theta, direction = case(encoder, torch.float64)
    theta = deepcopy(theta)
    size = 32 if small_images else 64
    images = [drawn(4, view.channels, size, size, seed=view.channels, dtype=torch.float64) for view in encoder.views]
    expected = by_dual_numbers(encoder, images, direction)
    linearization = recorded(encoder, images)
    statistics = [buffer.clone() for buffer in encoder.buffers()]
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(1)
    for factor in (1, 2):  # as often as wanted
        scaled = {name: factor * tangent for name, tangent in direction.items()}
        found = linearization.tangent(theta, scaled)
        torch.testing.assert_close(found, factor * expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close([*encoder.buffers()], statistics, rtol=0, atol=0)


@pytest.mark.parametrize("graph", [True, False])
def test_batch_norm_without_a_graph_makes_its_statistics_again(graph: bool) -> None:
    torch.manual_seed(0)
    encoder = MultiViewEncoder(("l", "ab"), "conv", width=0.5, small_images=True).double()
    images, theta, direction = case(encoder, torch.float64)
    linearization = Linearization(encoder)
    with torch.set_grad_enabled(graph), linearization.recording(images):
        encoder(images)
    expected = by_dual_numbers(encoder, images, direction)
    torch.testing.assert_close(linearization.tangent(theta, direction), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("frozen", [True, False])
def test_parts_are_those_of_the_whole_where_batch_norm_is_fixed(frozen: bool) -> None:
    """Else its statistics are those of the whole minibatch, and their tangents the part's."""
    torch.manual_seed(0)
    encoder = MultiViewEncoder(("l", "ab"), "resnet18", width=0.5, small_images=True).double()
    if frozen:
        freeze_batch_norm(encoder)
    images, theta, direction = case(encoder, torch.float64)
    whole = recorded(encoder, images).tangent(theta, direction)
    parts = [recorded(encoder, images, Part(number, 3)).tangent(theta, direction) for number in range(3)]
    assert [part.shape[1] for part in parts] == [2, 2, 2]
    error = float((torch.cat(parts, 1) - whole).norm() / whole.norm())
    assert error < 1e-12 if frozen else 1e-3 < error < 1


def test_bfloat16_is_as_near_as_dual_numbers() -> None:
    torch.manual_seed(0)
    encoder = MultiViewEncoder(("l", "ab"), "resnet18", width=0.5, small_images=True)
    images, theta, direction = case(encoder, torch.float32)
    exact = by_dual_numbers(deepcopy(encoder).double(), [i.double() for i in images], _double(direction))
    linearization = Linearization(encoder, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16), linearization.recording(images):
        encoder(images)
    ours, theirs = linearization.tangent(theta, direction), by_dual_numbers(encoder, images, direction, torch.bfloat16)
    error, other = (float((found - exact).norm() / exact.norm()) for found in (ours, theirs))
    assert error < 1.3 * other < 0.5  # bfloat16 alone is a third off here


def _double(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.double() for name, tensor in tensors.items()}


class Unusual(nn.Module):
    """What no encoder of the table has: functions with no rule of their own, constants, buffers, frozen layers,
    products of activations, several outputs."""

    def __init__(self, scale: Tensor) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 6), nn.Linear(6, 6)
        self.gain = nn.Parameter(torch.rand(6))
        self.direction = nn.Parameter(torch.rand(6, 6))
        self.stem = nn.Linear(5, 5).requires_grad_(False)
        self.register_buffer("scale", scale)
        self.other_way = False

    def forward(self, images: list[Tensor]) -> "Unusual.Output":
        (x,) = images
        x = self.stem(x) + torch.ones(5, dtype=x.dtype)  # constants all
        hidden = F.gelu(self.first(x)) * self.scale + 1
        gate, value = torch.sigmoid(self.second(hidden)).chunk(2, 1)
        joined = torch.cat([gate * value.exp(), value.cos(), hidden[:, 2:]], 1)
        joined = F.layer_norm(joined, (joined.shape[1],)) - joined.mean(0)
        if self.other_way:
            joined = joined.tanh()
        joined = F.linear(joined[:, :6], F.normalize(self.direction))  # a weight that is made of a parameter
        return Unusual.Output(F.elu(joined * self.gain).unsqueeze(0) - self.first.bias.sin())

    class Output:
        def __init__(self, features: Tensor) -> None:
            self.features = features


@pytest.fixture
def unusual() -> Unusual:
    torch.manual_seed(0)
    return Unusual(torch.rand(6, dtype=torch.float64)).double()


def unusual_case(network: Unusual) -> tuple[list[Tensor], dict[str, Tensor], dict[str, Tensor]]:
    theta = {name: p.detach().clone() for name, p in network.named_parameters() if p.requires_grad}
    direction = {name: drawn(*p.shape, seed=number, dtype=p.dtype) for number, (name, p) in enumerate(theta.items())}
    return [drawn(4, 5, seed=9, dtype=torch.float64)], theta, direction


def test_any_function_has_its_tangent(unusual: Unusual) -> None:
    images, theta, direction = unusual_case(unusual)
    linearization = Linearization(unusual)
    with linearization.recording(images):
        unusual(images)
    expected = by_dual_numbers(unusual, images, direction)  # type: ignore[arg-type]
    torch.testing.assert_close(linearization.tangent(theta, direction), expected, rtol=1e-12, atol=1e-12)


def test_another_way_is_refused(unusual: Unusual) -> None:
    images, theta, direction = unusual_case(unusual)
    for first in (False, True):
        unusual.other_way = first
        linearization = Linearization(unusual)
        with linearization.recording(images):
            unusual(images)
        unusual.other_way = not first
        with pytest.raises(RuntimeError, match="must take the same way each time"):
            linearization.tangent(theta, direction)


def test_what_writes_to_its_input_is_refused(unusual: Unusual) -> None:
    images, _, _ = unusual_case(unusual)
    unusual.second.register_forward_hook(lambda module, args, output: output.exp_() and None)
    with pytest.raises(NotImplementedError, match="writes to what it takes"), Linearization(unusual).recording(images):
        unusual(images)


def test_what_was_written_to_since_is_refused(unusual: Unusual) -> None:
    images, theta, direction = unusual_case(unusual)
    seen: list[Tensor] = []
    unusual.second.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    linearization = Linearization(unusual)
    with linearization.recording(images), torch.no_grad():
        unusual(images)
    seen[0].zero_()
    with pytest.raises(RuntimeError, match="was written to"):
        linearization.tangent(theta, direction)


def test_what_has_no_part_is_refused(unusual: Unusual) -> None:
    images, _, _ = unusual_case(unusual)
    linearization = Linearization(unusual, Part(0, 2))
    with pytest.raises(NotImplementedError, match="is none of these images"), linearization.recording(images):
        F.gelu(unusual.first(images[0]).sum(0))
