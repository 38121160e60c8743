"""Names from records, journals and registries that would lead out of their folder."""

import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from pydantic import ValidationError

from metaug_ray.config.tracking import TrackingSettings
from metaug_ray.runtime.errors import StorageError
from metaug_ray.runtime.run_folder import RunFolder
from metaug_ray.runtime.stored_folder import StoredFolder
from metaug_ray.runtime.tracked import open_tracker
from metaug_ray.tracking.records import File, to_line
from metaug_ray.tracking.runs import RunTracker
from tests.log import Log
from tests.security.poison import refused
from tests.training.small import small_settings

LEAVING = ["../other", "/etc", "..", "a/b", "", "a\nb"]


@pytest.mark.parametrize("name", LEAVING)
def test_a_run_of_such_a_name(tmp_path: Path, name: str) -> None:
    with refused(tmp_path / "mark", StorageError, "is no name of a run in", "letters, digits"):
        RunFolder(str(tmp_path / "runs"), name)
    with refused(tmp_path / "mark", StorageError, "is no name of a sweep in"):
        StoredFolder("s3://bucket/runs", name, "sweep")


def test_weights_of_such_a_run(shapes_beton: Path) -> None:
    with pytest.raises(ValidationError, match=r"fork: got '../other'; expected the name of a run"):
        small_settings(shapes_beton, fork="../other")


@pytest.mark.parametrize("name", [*LEAVING, "checkpoint_1/../../x", "best"])
def test_a_checkpoint_of_such_a_name(tmp_path: Path, name: str) -> None:
    """What is beside the run's folder stays: the best but one is removed, and so is what is not listed."""
    folder = RunFolder(str(tmp_path), "run")
    folder.make()
    (tmp_path / "other").mkdir()
    listed = {"checkpoint_results": [{"checkpoint_dir_name": name, "metrics": {"step": 1, "knn/accuracy": 0.5}}]}
    (tmp_path / "run/checkpoint_manager_snapshot.json").write_text(json.dumps(listed))
    for look in (
        folder.checkpoints,
        lambda: folder.metrics("x"),
        lambda: folder.keep_best_of_all("knn/accuracy", lambda _: True),
    ):
        with refused(tmp_path / "mark", StorageError, "snapshot.json: names", "is no checkpoint of this run"):
            look()
    (tmp_path / "run/checkpoint_manager_snapshot.json").unlink()
    (tmp_path / "run/best").mkdir()
    (tmp_path / "run/best/best.json").write_text(json.dumps({"name": name, "accuracy": 0.1, "step": 1}))
    with refused(tmp_path / "mark", StorageError, "best.json: names", "is no checkpoint of this run"):
        folder.keep_best("checkpoint_000000002", 2, {"knn/accuracy": 0.9}, "knn/accuracy")
    assert (tmp_path / "other").is_dir()


def test_a_record_whose_id_is_a_path(tmp_path: Path) -> None:
    settings = TrackingSettings(uri=f"sqlite:///{tmp_path}/mlflow.db")
    folder = RunFolder(tmp_path.as_uri(), "run")
    with refused(tmp_path / "mark", StorageError, "run: its record has the id '../../x'"):
        open_tracker(settings, folder, "../../x")


def test_a_journal_that_names_files_elsewhere(tmp_path: Path, log: Log) -> None:
    """It would send them to MLflow."""
    (tmp_path / "secret").write_text("secret")
    folder = tmp_path / "run" / "tracking"
    (folder / "files").mkdir(parents=True)
    (folder / "files/link").symlink_to(tmp_path / "secret")
    (folder / "files/own").write_text("own")
    names = ["../../../secret", str(tmp_path / "secret"), "link", "own"]
    (folder / "journal.jsonl").write_bytes(b"".join(to_line(File(name)) for name in names))
    tracker = RunTracker(f"sqlite:///{tmp_path}/mlflow.db", "metaug", "run", "key", folder)
    assert tracker.close("FINISHED") == 0
    sent = MlflowClient(tracker.uri).list_artifacts(tracker.run_id)
    assert [file.path for file in sent] == ["own"]
    assert sum("MLflow refused a record" in line and "is no file of" in line for line in log.messages) == 3
