import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from metaug_ray.config import ProbeSettings
from metaug_ray.evaluation.accuracy import top_k_accuracy
from metaug_ray.evaluation.linear_probe import train_probe


def clusters(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Six overlapping classes in 24 dimensions of very different scales."""
    generator = torch.Generator().manual_seed(7)
    means = torch.randn(6, 24, generator=generator)
    scales = torch.logspace(-2, 2, 24)
    generator.manual_seed(seed)
    labels = torch.randint(6, (count,), generator=generator)
    return (means[labels] + 1.8 * torch.randn(count, 24, generator=generator)) * scales + 5, labels


def test_is_as_good_as_scikit_learns_logistic_regression() -> None:
    train, labels = clusters(3000, 0)
    test, expected = clusters(3000, 1)
    probe = train_probe(train, labels, 6, ProbeSettings(), seed=0)
    ours = top_k_accuracy(probe.logits(test), expected, 1)
    scaler = StandardScaler().fit(train)
    best = max(
        LogisticRegression(C=c, max_iter=2000)
        .fit(scaler.transform(train), labels)
        .score(scaler.transform(test), expected)
        for c in (1e-3, 1e-2, 0.1, 1.0)
    )
    assert best > 0.7  # of a sixth by chance
    assert ours == pytest.approx(best, abs=0.01)
    assert probe.held_out_accuracy == pytest.approx(ours, abs=0.06)


def test_the_sweep_is_the_same_as_one_setting_at_a_time() -> None:
    """The classifiers beside each other do not touch each other."""
    train, labels = clusters(400, 0)
    rates, decays = (1e-4, 3e-2), (1e-4, 100.0)
    both = train_probe(train, labels, 6, ProbeSettings(learning_rates=rates, weight_decays=decays, epochs=5), seed=3)
    single = {
        (rate, decay): train_probe(
            train, labels, 6, ProbeSettings(learning_rates=(rate,), weight_decays=(decay,), epochs=5), seed=3
        ).held_out_accuracy
        for rate in rates
        for decay in decays
    }
    assert len(set(single.values())) > 1
    assert both.held_out_accuracy == max(single.values())
    assert single[both.learning_rate, both.weight_decay] == both.held_out_accuracy


def test_a_constant_feature_and_a_missing_class_do_no_harm() -> None:
    train, labels = clusters(200, 0)
    train[:, 3] = 2.0
    probe = train_probe(train, labels, 7, ProbeSettings(epochs=2), seed=0)
    assert probe.weight.shape == (7, 24)
    assert torch.isfinite(probe.logits(train)).all()


def test_the_seed_decides() -> None:
    train, labels = clusters(300, 0)
    settings = ProbeSettings(epochs=2, least_steps=20)
    first, again, other = (train_probe(train, labels, 6, settings, seed).weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_top_k() -> None:
    logits = torch.tensor([[3.0, 2, 1, 0], [0, 1, 2, 3], [1, 3, 0, 2]])
    labels = torch.tensor([0, 1, 3])
    assert top_k_accuracy(logits, labels, 1) == pytest.approx(1 / 3)
    assert top_k_accuracy(logits, labels, 2) == pytest.approx(2 / 3)
    assert top_k_accuracy(logits, labels, 5) == 1


def test_too_few_labels_are_named() -> None:
    with pytest.raises(ValueError, match="at least ten labelled images, and has 9"):
        train_probe(torch.zeros(9, 2), torch.zeros(9, dtype=torch.int64), 2, ProbeSettings(), seed=0)
