from pathlib import Path

import numpy as np
import pytest
import torch

from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.stored import ROWS_AT_A_TIME, Labelled, _read
from tests.evaluation.kept import keep


@pytest.mark.parametrize("encoders", [slice(None), slice(1, 2)], ids=["all encoders", "one"])
def test_rows_are_those_of_the_array_without_images_that_have_no_label(tmp_path: Path, encoders: slice) -> None:
    generator = np.random.default_rng(0)
    values, labels = generator.normal(size=(50, 3, 4)).astype(np.float32), generator.integers(-1, 3, size=50)
    labelled = keep(tmp_path / "kept", values, labels, encoders)
    expected = values[labels >= 0][:, encoders].reshape((labels >= 0).sum(), -1)
    count = len(expected)
    assert 20 < count < 50  # some have none
    assert labelled.labels.tolist() == labels[labels >= 0].tolist()
    assert labelled.size == expected.shape[1]

    # In order, in any order, twice, one alone.
    for rows in (np.arange(count), generator.permutation(count), np.array([3, 3, 4]), np.array([count - 1])):
        assert [part.tolist() for part in labelled.read([rows, rows[:1]])] == [
            expected[rows].tolist(),
            expected[rows[:1]].tolist(),
        ]
        into = torch.full((count, labelled.size), -1.0)
        assert labelled.load(rows, into).tolist() == expected[rows].tolist()
        assert (into[len(rows) :] == -1).all()


def test_one_block_at_a_time_is_read(tmp_path: Path) -> None:
    values = np.arange(2 * ROWS_AT_A_TIME + 5, dtype=np.float32).reshape(-1, 1, 1)
    labelled = keep(tmp_path / "kept", values, np.zeros(len(values), np.int64))
    blocks = list(labelled.blocks(np.arange(len(values)), torch.device("cpu")))
    assert [len(block) for block in blocks] == [ROWS_AT_A_TIME, ROWS_AT_A_TIME, 5]
    assert torch.cat(blocks).flatten().tolist() == values.flatten().tolist()


def test_rows_within_the_memory(tmp_path: Path) -> None:
    labelled = keep(tmp_path / "kept", np.zeros((4, 2, 8)), np.zeros(4, np.int64))
    assert [labelled.rows_within(memory) for memory in (640, 639, 1)] == [10, 9, 1]


def test_a_file_is_read_where_it_is_whole(tmp_path: Path) -> None:
    """A folder of the same name on another node may be one that an evaluation was killed in."""

    def kept(name: str) -> Labelled:
        return keep(tmp_path / name, np.zeros((4, 2, 8)), np.zeros(4, np.int64))

    assert kept("whole")._is_here()
    unmarked, short, gone = kept("unmarked"), kept("short"), kept("gone")
    (unmarked.file.parent / "representations.json").unlink()
    with short.file.open("r+b") as file:
        file.truncate(short.file.stat().st_size - 4)
    gone.file.unlink()
    assert not any(labelled._is_here() for labelled in (unmarked, short, gone))
    with pytest.raises(EvaluationError, match=r"cache: \S+/short/representations.npy ends before image 3; remove"):
        list(_read(short, [np.arange(4)]))
