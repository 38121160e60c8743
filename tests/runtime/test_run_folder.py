import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest

from metaug_ray.runtime.checkpoint_files import CheckpointFiles
from metaug_ray.runtime.errors import StorageError
from metaug_ray.runtime.run_folder import Best, RunFolder, _link, checkpoint_name
from tests.data.nobody import as_nobody, needs_root


def make(tmp_path: Path, *whole: int, unfinished: tuple[int, ...] = ()) -> RunFolder:
    folder = RunFolder(str(tmp_path), "run")
    folder.make()
    for step in (*whole, *unfinished):
        path = tmp_path / "run" / checkpoint_name(step)
        path.mkdir()
        (path / "part").write_text(str(step))
    results = [{"checkpoint_dir_name": checkpoint_name(step), "metrics": {}} for step in whole]
    list_checkpoints(tmp_path, results)
    return folder


def list_checkpoints(tmp_path: Path, results: list[dict[str, Any]]) -> None:
    """As Ray does."""
    snapshot = {
        "checkpoint_results": results,
        "checkpoint_report_indices": [*range(len(results))],
        "latest_checkpoint_result": results[-1] if results else None,
    }
    (tmp_path / "run/checkpoint_manager_snapshot.json").write_text(json.dumps(snapshot))


def test_what_is_not_listed_does_not_count_and_goes(tmp_path: Path) -> None:
    folder = make(tmp_path, 20, 10, unfinished=(30,))
    assert folder.checkpoints() == [checkpoint_name(10), checkpoint_name(20)]
    assert folder.remove_unfinished() == [checkpoint_name(30)]
    assert folder.remove_unfinished() == []
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint_0*")) == folder.checkpoints()


def test_one_that_is_damaged_is_kept_and_counts_no_longer(tmp_path: Path) -> None:
    folder = make(tmp_path, 10, 20, 30)
    assert folder.set_aside(checkpoint_name(30)) == "damaged_checkpoint_000000030"
    assert (tmp_path / "run/damaged_checkpoint_000000030/part").read_text() == "30"
    assert not (tmp_path / "run" / checkpoint_name(30)).exists()
    shutil.rmtree(tmp_path / "run" / checkpoint_name(10))
    assert (folder.checkpoints(), folder.missing()) == ([checkpoint_name(20)], [checkpoint_name(10)])
    folder.forget(folder.missing())
    assert (folder.checkpoints(), folder.missing()) == ([checkpoint_name(20)], [])
    listed = {"checkpoint_dir_name": checkpoint_name(20), "metrics": {}}
    assert folder.read_json("checkpoint_manager_snapshot.json") == {
        "checkpoint_results": [listed],
        "checkpoint_report_indices": [1],
        "latest_checkpoint_result": listed,
    }
    assert folder.remove_unfinished() == []
    assert (tmp_path / "run/damaged_checkpoint_000000030").exists()
    # Made again, and damaged again.
    (tmp_path / "run" / checkpoint_name(30)).mkdir()
    list_checkpoints(tmp_path, [listed, {"checkpoint_dir_name": checkpoint_name(30), "metrics": {}}])
    assert folder.set_aside(checkpoint_name(30)) == "damaged_checkpoint_000000030_2"
    assert (tmp_path / "run/damaged_checkpoint_000000030").exists()


def test_on_a_store_it_is_copied(tmp_path: Path) -> None:
    folder = make(tmp_path, 10, 20)
    folder._files = pyarrow.fs.SubTreeFileSystem("/", pyarrow.fs.LocalFileSystem())
    assert folder.set_aside(checkpoint_name(20)) == "damaged_checkpoint_000000020"
    assert (tmp_path / "run/damaged_checkpoint_000000020/part").read_text() == "20"
    assert not (tmp_path / "run" / checkpoint_name(20)).exists()
    assert (folder.checkpoints(), folder.missing()) == ([checkpoint_name(10)], [])


def test_a_damaged_one_is_no_longer_the_best(tmp_path: Path) -> None:
    """On a disk the best one's files are its own."""
    folder = make(tmp_path, 10, 20, 30)
    scores = {10: 0.3, 20: 0.4, 30: 0.5}
    results = [
        {"checkpoint_dir_name": checkpoint_name(step), "metrics": {"knn/accuracy": score, "step": step}}
        for step, score in scores.items()
    ]
    list_checkpoints(tmp_path, results)
    folder.keep_best_of_all("knn/accuracy", lambda _: True)
    best = folder.best()
    assert best is not None
    assert best.step == 30
    folder.set_aside(best.name)
    assert folder.best() is None
    asked = []

    def whole(files: CheckpointFiles) -> bool:
        asked.append(files.folder.name)
        return files.folder.name != checkpoint_name(20)

    folder.keep_best_of_all("knn/accuracy", whole)
    best = folder.best()
    assert best is not None
    assert best.step == 10
    assert asked == [checkpoint_name(10), checkpoint_name(20)]
    assert [path.name for path in (tmp_path / "run/best").iterdir() if path.is_dir()] == [checkpoint_name(10)]


def test_what_a_full_disk_left_of_rays_list_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make(tmp_path, 10, 20)
    left = tmp_path / "run/checkpoint_manager_snapshot.partial"
    left.write_text("half of i")
    assert folder.remove_unfinished() == []

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(StorageError, match="No space left on device"):
            folder.forget([checkpoint_name(10)])
    assert not left.exists()
    assert folder.checkpoints() == [checkpoint_name(10), checkpoint_name(20)]


def test_the_best_stays_when_ray_removes_it(tmp_path: Path) -> None:
    folder = make(tmp_path, 10, 20, 30)
    assert folder.best() is None
    for step, accuracy in ((10, 0.3), (20, 0.5), (30, 0.5)):  # the earlier of equals stays
        folder.keep_best(checkpoint_name(step), step, {"knn/accuracy": accuracy, "rankme/mean": 9}, "knn/accuracy")
    best = folder.best()
    assert best == Best(checkpoint_name(20), 20, "knn/accuracy", {"knn/accuracy": 0.5, "rankme/mean": 9})
    assert best.value == 0.5
    assert [path.name for path in (tmp_path / "run/best").iterdir() if path.is_dir()] == [checkpoint_name(20)]
    kept, there = (tmp_path / place / checkpoint_name(20) / "part" for place in ("run/best", "run"))
    assert kept.samefile(there)  # no byte of it was copied
    shutil.rmtree(there.parent)
    assert kept.read_text() == "20"


def test_what_cannot_have_a_second_name_is_copied(tmp_path: Path) -> None:
    (tmp_path / "part").write_text("10")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as elsewhere:
        copy = Path(elsewhere, "part")
        assert copy.parent.stat().st_dev != tmp_path.stat().st_dev
        _link(str(tmp_path / "part"), str(copy))
        assert copy.read_text() == "10"


def test_the_best_is_found_again_after_a_driver_died(tmp_path: Path) -> None:
    folder = make(tmp_path, 10, 20)
    scores = {10: {"knn/accuracy": 0.4, "step": 10}, 20: {"step": 20}}
    results = [{"checkpoint_dir_name": checkpoint_name(step), "metrics": metrics} for step, metrics in scores.items()]
    list_checkpoints(tmp_path, results)
    folder.keep_best_of_all("rankme/mean", lambda _: True)
    assert folder.best() is None
    folder.keep_best_of_all("knn/accuracy", lambda _: True)
    assert folder.best() == Best(checkpoint_name(10), 10, "knn/accuracy", scores[10])


def test_the_best_by_another_metric_begins_anew(tmp_path: Path) -> None:
    """From an accuracy, as 0.2.0 wrote it, to a rank, which is no greater or less than it."""
    folder = make(tmp_path, 10, 20, 30)
    kept = tmp_path / "run/best" / checkpoint_name(10)
    kept.mkdir(parents=True)
    (kept.parent / "best.json").write_text(json.dumps({"name": kept.name, "accuracy": 0.6, "step": 10}))
    assert folder.best() == Best(kept.name, 10, "knn/accuracy", {"knn/accuracy": 0.6})
    assert folder.metrics(kept.name) == {"knn/accuracy": 0.6}
    measured = {"knn/accuracy": 0.5, "rankme/mean": 0.4}
    folder.keep_best(checkpoint_name(20), 20, measured, "knn/accuracy")
    folder.keep_best(checkpoint_name(20), 20, {"knn/accuracy": 0.9, "rankme/mean": math.nan}, "rankme/mean")
    folder.keep_best(checkpoint_name(20), 20, {"knn/accuracy": 0.9}, "rankme/mean")
    assert folder.best() == Best(kept.name, 10, "knn/accuracy", {"knn/accuracy": 0.6})
    folder.keep_best(checkpoint_name(20), 20, measured, "rankme/mean")
    folder.keep_best(checkpoint_name(30), 30, measured | {"rankme/mean": 0.3}, "rankme/mean")
    assert folder.best() == Best(checkpoint_name(20), 20, "rankme/mean", measured)
    assert not kept.exists()


def test_starts_from_one_checkpoint_are_counted(tmp_path: Path) -> None:
    folder = make(tmp_path)
    assert [folder.count_start("a"), folder.count_start("a"), folder.count_start("b")] == [1, 2, 1]
    assert [folder.count_start("b"), folder.count_start(None), folder.count_start("b")] == [2, 0, 1]


def test_the_record_is_replaced_whole(tmp_path: Path) -> None:
    folder = RunFolder(str(tmp_path), "run")
    folder.make()
    assert folder.record is None
    folder.write_record({"a": 1})
    folder.write_record({"a": 2})
    assert folder.record == {"a": 2}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.json"]


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (tmp_path / "run/run.json").write_text('{"a": ')
    with pytest.raises(StorageError, match=r"run/run.json: is damaged .*or begin anew under another name"):
        _ = folder.record
    (tmp_path / "run/run.json").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(StorageError, match=r"run/run.json: is damaged .*or begin anew under another name"):
        _ = folder.record
    (tmp_path / "run/checkpoint_manager_snapshot.json").write_text("")
    with pytest.raises(StorageError, match=r"checkpoint_manager_snapshot.json: is damaged"):
        folder.checkpoints()


def test_one_driver_at_a_time(tmp_path: Path) -> None:
    folder = make(tmp_path)
    lock = folder.lock()
    assert lock is not None
    with pytest.raises(
        StorageError, match=r"run 'run' is already running from .*; wait for it, stop it, or give another"
    ):
        RunFolder(str(tmp_path), "run").lock()
    lock.release()
    again = RunFolder(str(tmp_path), "run").lock()
    assert again is not None
    again.release()


@needs_root
def test_a_storage_that_cannot_be_written(tmp_path: Path) -> None:
    refused = as_nobody(tmp_path, RunFolder(str(tmp_path), "run").make)
    assert refused.startswith(f"StorageError: storage: {tmp_path}/run cannot be written (")
    assert "Permission denied" in refused
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"storage: .*file/run cannot be written"):
        RunFolder(str(tmp_path / "file"), "run").make()


def test_storages_by_uri(tmp_path: Path) -> None:
    folder = make(tmp_path, 10)
    by_uri = RunFolder(tmp_path.as_uri(), "run")
    by_uri.make()
    assert by_uri.location == f"{tmp_path.as_uri()}/run"
    assert by_uri.checkpoints() == folder.checkpoints()
    by_uri.write_record({"a": 1})
    assert by_uri.record == folder.record == {"a": 1}
    with by_uri.files(checkpoint_name(10)).open("part") as file:
        assert file.read() == b"10"
    with pytest.raises(StorageError, match=r"storage: gopher://x cannot be opened"):
        RunFolder("gopher://x", "run")
