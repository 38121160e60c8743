import pytest
import torch
from pydantic import ValidationError
from torch import nn

from metaug_ray.config.training import OptimizerSettings, TrainingSettings
from metaug_ray.training.optimizers import make_optimizer


def step(settings: OptimizerSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """One weight [2, 2] of threes and one bias [2] of twos after two steps with gradients of one."""
    module = nn.Linear(2, 2)
    with torch.no_grad():
        module.weight.fill_(3.0)
        module.bias.fill_(2.0)
    optimizer = make_optimizer([module], settings)
    for _ in range(2):
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    return module.weight[0, 0].detach(), module.bias[0].detach()


def by_hand(value: float, rate: float, momentum: float, decay: float) -> float:
    """SGD with momentum and l2 penalty."""
    velocity = 0.0
    for _ in range(2):
        velocity = momentum * velocity + 1 + decay * value
        value -= rate * velocity
    return value


@pytest.mark.parametrize("decay_all", [True, False])
def test_sgd(decay_all: bool) -> None:
    settings = OptimizerSettings(learning_rate=0.1, momentum=0.5, weight_decay=0.01, decay_norm_and_bias=decay_all)
    weight, bias = step(settings)
    assert float(weight) == pytest.approx(by_hand(3, 0.1, 0.5, 0.01))
    assert float(bias) == pytest.approx(by_hand(2, 0.1, 0.5, 0.01 if decay_all else 0.0))


def test_adam_decays_apart_from_the_gradient() -> None:
    weight, _ = step(OptimizerSettings(kind="adam", learning_rate=0.1, weight_decay=0.5))
    expected = 3.0
    for _ in range(2):
        expected = expected * (1 - 0.1 * 0.5) - 0.1  # a constant gradient: each step is the learning rate
    assert float(weight) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_one_may_climb(kind: str) -> None:
    down, up = (
        step(OptimizerSettings(kind=kind, learning_rate=0.1, weight_decay=0.0, maximize=maximize))  # type: ignore[arg-type]
        for maximize in (False, True)
    )
    assert [float(value) for value in up] == pytest.approx([6 - float(down[0]), 4 - float(down[1])])
    with pytest.raises(ValidationError, match="maximize: lars only lowers what it is given"):
        OptimizerSettings(kind="lars", maximize=True)
    with pytest.raises(ValidationError, match=r"head\.maximize: only generators may raise what they are given"):
        TrainingSettings(head=OptimizerSettings(maximize=True))


@pytest.mark.parametrize("decay", [0.01, 0.0])
def test_lars_scales_matrices_by_layer_and_leaves_vectors(decay: float) -> None:
    weight, bias = step(OptimizerSettings(kind="lars", learning_rate=0.1, momentum=0.5, weight_decay=decay))
    # trust = 0.001 |w| / (|g| + decay |w|); all entries are equal, so the norms' ratio is that of the entries.
    value, velocity = 3.0, 0.0
    for _ in range(2):
        trust = 0.001 * value / (1 + decay * value)
        velocity = 0.5 * velocity + trust * (1 + decay * value)
        value -= 0.1 * velocity
    assert float(weight) == pytest.approx(value, rel=1e-6)
    assert float(bias) == pytest.approx(by_hand(2, 0.1, 0.5, 0.0))
