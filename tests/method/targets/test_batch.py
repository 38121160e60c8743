"""Targets of the batch, of one process. Their loss is compared in test_against_lightly, ranks in
test_star_ranks_equal_one_process."""

import pytest
import torch
import torch.nn.functional as F

from metaug_ray.method.targets import BatchTargets


def unit_features(views: int, batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(views, batch, 8, generator=generator, dtype=torch.float64), dim=-1)


def test_three_views_are_compared_pair_by_pair() -> None:
    z = unit_features(3, 4)
    positives, negatives = BatchTargets(3, 8).ask(torch.arange(4), 0).similarities(z, z)
    pairs = [(u, v) for u in range(3) for v in range(3) if u != v]
    for place, (u, v) in enumerate(pairs):
        for i in range(4):
            assert positives[i, place] == pytest.approx(float(1 + z[u, i] @ z[v, i]) / 2)
            expected = [float(1 + z[u, i] @ z[w, k]) / 2 for w in sorted((u, v)) for k in range(4) if k != i]
            assert negatives[i, place].tolist() == pytest.approx(expected)


def test_gradients_flow_through_both_sides() -> None:
    anchors, features = (unit_features(2, 3).requires_grad_() for _ in range(2))
    keys = BatchTargets(2, 8).ask(torch.arange(3), 0)
    assert torch.autograd.gradcheck(keys.similarities, (anchors, features))
    assert torch.autograd.gradgradcheck(keys.similarities, (anchors, features))


def test_bfloat16_features_are_compared_in_float32_whatever_autocast_is_on() -> None:
    z = unit_features(2, 4).bfloat16()
    keys = BatchTargets(2, 8).ask(torch.arange(4), 0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = keys.similarities(z, z)
    assert inside.positives.dtype == inside.negatives.dtype == torch.float32
    torch.testing.assert_close(inside, keys.similarities(z.float(), z.float()), rtol=0, atol=0)


def test_one_image_has_no_negatives() -> None:
    z = unit_features(2, 1)
    with pytest.raises(ValueError, match="a global batch of 1 image has no negatives"):
        BatchTargets(2, 8).ask(torch.arange(1), 0).similarities(z, z)
