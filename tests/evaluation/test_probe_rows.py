from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from metaug_ray.config import ProbeSettings
from metaug_ray.evaluation import probe_rows
from metaug_ray.evaluation.accuracy import top_k_accuracy
from metaug_ray.evaluation.linear_probe import train_probe_on
from metaug_ray.evaluation.probe_rows import InMemory, Streamed
from metaug_ray.evaluation.stored import Labelled
from tests.evaluation.kept import keep
from tests.evaluation.test_linear_probe import clusters

Stream = Callable[[Tensor, Tensor, int], Streamed]


@pytest.fixture
def stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stream:
    """Rows of a file that is cut into blocks of eight, by a window."""

    def streamed(values: Tensor, labels: Tensor, window: int) -> Streamed:
        monkeypatch.setattr(probe_rows, "_BYTES_AT_A_TIME", 8 * 4 * values.shape[1])
        stored = keep(tmp_path / "kept", values[:, None].numpy(), labels.numpy())
        return Streamed(stored, np.arange(len(values)), labels, window)

    return streamed


def numbered(count: int) -> tuple[Tensor, Tensor]:
    """Rows that hold their own numbers."""
    return torch.arange(count).float()[:, None].expand(-1, 3).contiguous(), torch.arange(count)


def test_an_epoch_has_each_chosen_row_once_by_chance(stream: Stream) -> None:
    rows = stream(*numbered(200), 64)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(200, generator=generator)[:170]
    epochs = []
    for _ in range(2):
        batches = list(rows.epoch(chosen, 16, generator))
        assert [len(labels) for _, labels in batches] == [16] * 10  # without the remainder of ten
        for representations, labels in batches:
            assert representations[:, 0].tolist() == labels.tolist()
        epochs.append(torch.cat([labels for _, labels in batches]).tolist())
        assert len(set(epochs[-1])) == 160
        assert set(epochs[-1]) < set(chosen.tolist())
    assert epochs[0] != epochs[1]
    # A batch is of rows from all over its window, and a window of blocks from all over the file.
    first = torch.tensor(epochs[0][:16])
    assert len(set((first // 8).tolist())) > 4
    assert first.max() - first.min() > 100
    assert len({label // 8 for label in epochs[0][:64]}) < 15  # of 25: no other blocks are read for it


def test_a_window_is_what_is_in_memory_and_each_row_is_read_once(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, held, read = stream(*numbered(1000), 100), [], []
    load = Labelled.load

    def watched(self: Labelled, chosen: np.ndarray, into: Tensor) -> Tensor:
        held.append(into)
        read.extend(chosen.tolist())
        return load(self, chosen, into)

    monkeypatch.setattr(Labelled, "load", watched)
    for _ in rows.epoch(torch.arange(1000), 16, torch.Generator().manual_seed(0)):
        pass
    assert sorted(read) == list(range(1000))
    assert len(held) == 11  # ten windows of six batches, and what remains
    assert {(memory.data_ptr(), len(memory)) for memory in held} == {(held[0].data_ptr(), 96)}


def test_the_moments_are_those_in_memory(stream: Stream) -> None:
    values, labels = clusters(9000, 0)  # more than are read at a time
    rows, whole = stream(values, labels, 50), InMemory(values, labels)
    chosen = torch.randperm(9000, generator=torch.Generator().manual_seed(1))[:7000]
    for found, expected in zip(rows.std_mean(chosen), whole.std_mean(chosen), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert torch.cat([labels for _, labels in rows.each(chosen)]).tolist() == labels[chosen.sort().values].tolist()


def test_with_all_rows_in_a_batch_the_probe_is_the_one_in_memory(stream: Stream) -> None:
    """Where the order does not count, nothing differs but the rounding."""
    values, labels = clusters(500, 0)
    settings = ProbeSettings(batch_size=500, epochs=40, least_steps=1)
    expected = train_probe_on(InMemory(values, labels), 6, settings, seed=2)
    found = train_probe_on(stream(values, labels, 60), 6, settings, seed=2)
    assert (found.learning_rate, found.weight_decay) == (expected.learning_rate, expected.weight_decay)
    assert found.held_out_accuracy == expected.held_out_accuracy
    scale = expected.weight.abs().mean(0)
    torch.testing.assert_close(found.weight / scale, expected.weight / scale, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.bias, expected.bias, rtol=1e-3, atol=1e-3)


def test_rows_sorted_by_class_are_learnt_as_by_scikit_learn(stream: Stream) -> None:
    """The file that is worst for an order of blocks: each of them is of one class."""
    train, labels = clusters(3000, 0)
    train, labels = train[labels.argsort()], labels.sort().values
    test, expected = clusters(3000, 1)
    # One setting: which one three hundred held-out rows choose is chance.
    settings = ProbeSettings(learning_rates=(1e-2,), weight_decays=(1e-2,))
    probe = train_probe_on(stream(train, labels, 600), 6, settings, seed=0)
    scaler = StandardScaler().fit(train)
    best = LogisticRegression(C=0.01, max_iter=2000).fit(scaler.transform(train), labels)
    assert top_k_accuracy(probe.logits(test), expected, 1) == pytest.approx(
        best.score(scaler.transform(test), expected), abs=0.01
    )
