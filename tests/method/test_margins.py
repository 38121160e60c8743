import pytest
import torch

from metaug_ray.choices import MarginKind
from metaug_ray.method.margins import injected_margins, margin_regularization

OVERLAPPING = torch.tensor([[0.3, 0.5]]), torch.tensor([[0.5, 0.9]])  # min+ 0.3, max- 0.9
SEPARATED = torch.tensor([[1.0, 0.9]]), torch.tensor([[0.1, 0.3]])  # min+ 0.9, max- 0.3


@pytest.mark.parametrize(("kind", "expected"), [("large", (0.3, 0.9)), ("medium", (0.6, 0.6)), ("small", (0.9, 0.3))])
@pytest.mark.parametrize("similarities", [OVERLAPPING, SEPARATED])
def test_margins_come_from_the_extremes(
    kind: MarginKind, expected: tuple[float, float], similarities: tuple[torch.Tensor, torch.Tensor]
) -> None:
    positives, negatives = similarities
    sigma_plus, sigma_minus = injected_margins(positives.clone().requires_grad_(), negatives, kind)
    torch.testing.assert_close((sigma_plus.item(), sigma_minus.item()), expected)
    assert not sigma_plus.requires_grad


def test_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown margin kind 'huge': choose from large, medium, small"):
        injected_margins(torch.ones(1), torch.ones(1), "huge")  # type: ignore[arg-type]


def test_regularization_by_hand() -> None:
    positives = torch.tensor([[0.2, 0.7], [0.5, 0.9]], requires_grad=True)
    negatives = torch.tensor([[0.1, 0.4], [0.6, 0.95]], requires_grad=True)
    value = margin_regularization(positives, negatives, torch.tensor(0.6), torch.tensor(0.5))
    torch.testing.assert_close(value.item(), (0.1 + 0.3) / 4 + (0.4 + 0.1) / 4)
    value.backward()
    torch.testing.assert_close(positives.grad, torch.tensor([[0.0, 1.0], [0.0, 1.0]]) / 4)
    torch.testing.assert_close(negatives.grad, torch.tensor([[-1.0, -1.0], [0.0, 0.0]]) / 4)


def test_an_anchor_may_have_margins_of_its_own() -> None:
    generator = torch.Generator().manual_seed(0)
    positives, negatives, positives_aug, negatives_aug = (
        torch.rand(4, *shape, generator=generator) for shape in ((3,), (3, 5), (3,), (3, 5))
    )
    sigma_plus, sigma_minus = injected_margins(positives, negatives, "large", "anchor")
    value = margin_regularization(positives_aug, negatives_aug, sigma_plus, sigma_minus)
    # Anchor by anchor, each a minibatch of one.
    alone = [
        margin_regularization(p_aug, n_aug, *injected_margins(p, n))
        for p, n, p_aug, n_aug in zip(positives, negatives, positives_aug, negatives_aug, strict=True)
    ]
    torch.testing.assert_close(value, torch.stack(alone).mean())
    together = margin_regularization(positives_aug, negatives_aug, *injected_margins(positives, negatives))
    assert abs(value - together) > 0.01
    with pytest.raises(ValueError, match="unknown margin scope 'view': choose from minibatch, anchor"):
        injected_margins(positives, negatives, scope="view")  # type: ignore[arg-type]
