"""What the driver does about a last checkpoint that its workers cannot read."""

import json
import pickle
import shutil
from pathlib import Path

import pytest

from metaug_ray.runtime.checkpoint import snapshot, write
from metaug_ray.runtime.run_folder import RunFolder, checkpoint_name
from metaug_ray.training.errors import DamagedError, TrainingError
from metaug_ray.training.trainer import _check_not_all_missing, _go_back
from tests.log import Log
from tests.training.small import run_plain, small_settings

METRIC = "knn/accuracy"


@pytest.fixture
def folder(shapes_beton: Path, tmp_path: Path) -> RunFolder:
    """Of two whole checkpoints."""
    _, state = run_plain(0, small_settings(shapes_beton, training={"epochs": 1}))
    folder = RunFolder(str(tmp_path), "run")
    folder.make()
    write(snapshot(state), tmp_path / "run" / checkpoint_name(10), {})
    shutil.copytree(tmp_path / "run" / checkpoint_name(10), tmp_path / "run" / checkpoint_name(20))
    results = [{"checkpoint_dir_name": checkpoint_name(step), "metrics": {}} for step in (10, 20)]
    snap = {
        "checkpoint_results": results,
        "checkpoint_report_indices": [0, 1],
        "latest_checkpoint_result": results[-1],
    }
    (tmp_path / "run/checkpoint_manager_snapshot.json").write_text(json.dumps(snap))
    return folder


def flip(folder: RunFolder, step: int) -> None:
    part = Path(folder.location, checkpoint_name(step), "__0_0.distcp")
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 1
    part.write_bytes(content)


def test_what_is_whole_here_is_left_as_it_is(folder: RunFolder) -> None:
    """A node without the mount sees no files at all."""
    error = DamagedError(
        "worker 1 on b: .../checkpoint_000000020: is damaged: it has no .metadata", checkpoint_name(20)
    )
    with pytest.raises(
        TrainingError, match=r"^worker 1 on b: .* but is whole as this machine sees it: look at that"
    ) as caught:
        _go_back(folder, error, METRIC)
    assert not isinstance(caught.value, DamagedError)
    assert folder.checkpoints() == [checkpoint_name(10), checkpoint_name(20)]


def test_goes_back_while_there_is_an_earlier_one(folder: RunFolder, log: Log) -> None:
    flip(folder, 20)
    _go_back(folder, DamagedError("it is damaged", checkpoint_name(20)), METRIC)
    assert log.messages[-1] == (
        f"it is damaged; it is kept as damaged_{checkpoint_name(20)}, and the run goes on from {checkpoint_name(10)}"
    )
    assert folder.checkpoints() == [checkpoint_name(10)]
    flip(folder, 10)
    with pytest.raises(DamagedError, match=r"^it is damaged; no earlier checkpoint is left: restore one") as caught:
        _go_back(folder, DamagedError("it is damaged", checkpoint_name(10)), METRIC)
    assert folder.checkpoints() == [checkpoint_name(10)]
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_nothing_begins_anew_where_all_are_gone(folder: RunFolder) -> None:
    _check_not_all_missing(folder)
    for name in folder.checkpoints():
        shutil.rmtree(Path(folder.location, name))
    with pytest.raises(
        TrainingError, match=rf"all checkpoints of run 'run' \({checkpoint_name(10)}, .* are missing in"
    ):
        _check_not_all_missing(folder)
    best = Path(folder.location, "best")
    best.mkdir()
    (best / "best.json").write_text(json.dumps({"name": checkpoint_name(10), "accuracy": 0.6, "step": 10}))
    with pytest.raises(TrainingError, match=r"under another --name; its best one, of step 10, is still run:run@best$"):
        _check_not_all_missing(folder)
