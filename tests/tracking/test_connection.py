"""Addresses and experiments that MLflow takes, and those that it would refuse in the end."""

import os
import shutil
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from metaug_ray.tracking.connection import check_tracking, connect, find_experiment, flat, log_params, moved_files
from metaug_ray.tracking.encoders import load_encoder
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.tracking.evaluations import find_evaluations
from metaug_ray.tracking.runs import RunTracker, download_figures, find_run
from tests.log import Log


@pytest.fixture
def uri(mlflow_database: Path, tmp_path: Path) -> str:
    (tmp_path / "a").mkdir()
    shutil.copy(mlflow_database, tmp_path / "a/mlflow.db")
    return f"sqlite:///{tmp_path}/a/mlflow.db"


def test_a_deleted_experiment_is_named_before_anything_is_computed(uri: str) -> None:
    client = connect(uri)
    experiment = find_experiment(client, uri, "mine")
    client.delete_experiment(experiment)
    said = (
        r"tracking.experiment: 'mine' was deleted from MLflow at sqlite.*; restore it with `MLFLOW_TRACKING_URI=.* "
        rf"mlflow experiments restore -x {experiment}`, or choose another"
    )
    with pytest.raises(TrackingError, match=said):
        check_tracking(uri, "mine")
    with pytest.raises(TrackingError, match=said):
        find_evaluations("mine", uri)
    check_tracking(uri, "another", registry=True)
    client.restore_experiment(experiment)
    check_tracking(uri, "mine")


def test_a_database_that_was_moved_without_or_with_its_files(uri: str, tmp_path: Path) -> None:
    tracker = RunTracker(uri, "metaug", "run", "key", tmp_path / "run")
    tracker.tags({"a": "b"})
    tracker.settings({}, {}, "a: 1")
    assert tracker.close("FINISHED") == 0
    check_tracking(uri, "metaug")

    moved, there = tmp_path / "b", tmp_path / "a"
    there.rename(moved)
    new = f"sqlite:///{moved}/mlflow.db"
    said = rf"database {moved}/mlflow.db was moved, and says that its artifacts are in {there}/mlartifacts"
    mends = f"mkdir -p {there} && ln -s {moved}/mlartifacts {there}/mlartifacts"
    for refused in (lambda: check_tracking(new, "metaug"), lambda: download_figures(new, tracker.run_id, tmp_path)):
        with pytest.raises(TrackingError, match=rf"{said}.*`{mends}` mends it"):
            refused()
    # Another database may keep its files where they were.
    assert moved_files(new, (there / "mlartifacts/metaug").as_uri()) is not None
    (there / "mlartifacts/metaug").mkdir(parents=True)
    own = MlflowClient(new).get_run(tracker.run_id).info.artifact_uri
    assert f"ln -s {moved}/mlartifacts/metaug/{tracker.run_id}/artifacts " in (moved_files(new, own) or "")
    shutil.rmtree(there)
    # What it says to do leads on.
    assert os.system(mends) == 0
    check_tracking(new, "metaug")
    files = MlflowClient(new).list_artifacts(tracker.run_id, "start_0")
    assert [file.path for file in files] == ["start_0/config.yaml", "start_0/environment.json"]


def test_places_that_need_no_mending(uri: str, tmp_path: Path) -> None:
    assert moved_files(uri, (tmp_path / "a/mlartifacts/metaug").as_uri()) is None  # not made yet
    assert moved_files(uri, "s3://bucket/mlartifacts") is None
    assert moved_files(uri, (tmp_path / "elsewhere").as_uri()) is None
    assert moved_files("http://there", "mlflow-artifacts:/1") is None


def test_experiments_with_any_name_keep_files_beside_the_database(mlflow_database: Path, tmp_path: Path) -> None:
    folder, file = tmp_path / "odd #[x]~$5", tmp_path / "file.txt"
    folder.mkdir()
    shutil.copy(mlflow_database, folder)
    file.write_text("kept")
    uri = f"sqlite:///{folder}/mlflow.db"
    client = connect(uri)
    for name in ("../x", "a/b", "50% #1 [a]?", "x" * 300, "\u732b $5_$", "li\nne", "~it's `q`"):
        run_id = client.create_run(find_experiment(client, uri, name)).info.run_id
        client.log_artifact(run_id, str(file), "figures")
        assert Path(client.download_artifacts(run_id, "figures/file.txt", str(tmp_path))).read_text() == "kept", name
        check_tracking(uri, name)
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", ".mlflow.db.lock", "mlartifacts"}


@pytest.mark.parametrize("mark", ["?", "%41"])
def test_a_path_that_is_read_as_another_one_is_refused_at_once(tmp_path: Path, mark: str) -> None:
    with pytest.raises(TrackingError, match=r"reads '\?' and '%' in a database's path as something else"):
        connect(f"sqlite:///{tmp_path}/a{mark}b.db")


def test_mlflows_variable_stays_as_it_was_and_is_named(uri: str, monkeypatch: pytest.MonkeyPatch, log: Log) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    connect(uri)
    assert log.messages == []
    assert "MLFLOW_TRACKING_URI" not in os.environ
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    connect(uri)
    assert os.environ["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:9"
    with pytest.raises(TrackingError, match=r"MLflow at http://127.0.0.1:9 \(MLFLOW_TRACKING_URI\) cannot be used"):
        connect("http://127.0.0.1:9")
    with pytest.raises(TrackingError, match=r"no MLflow database .*none.db; check the path"):
        load_encoder("models:/x/1", uri.replace("mlflow.db", "none.db"))


def test_a_run_is_found_in_whatever_experiment_it_is(uri: str, tmp_path: Path) -> None:
    tracker = RunTracker(uri, "other", "run", "key", tmp_path / "run")
    tracker.close("FINISHED")
    assert find_run(uri, "key") == tracker.run_id
    assert find_run(uri, "nobody") is None
    # What a record says counts, if MLflow has it and it was not deleted.
    assert find_run(uri, "nobody", tracker.run_id) == tracker.run_id
    assert find_run(uri, "nobody", "0" * 32) is None
    MlflowClient(uri).delete_run(tracker.run_id)
    assert find_run(uri, "key", tracker.run_id) is None


def test_parameters_of_groups_with_any_name_arrive(uri: str) -> None:
    client = connect(uri)
    run = client.create_run("0").info.run_id
    groups = {"CMC + Hard": {"method.contrast": "hard_info_nce"}, "OUCL, w/o margin": {"method.alpha": 0}}
    log_params(client, run, flat({"groups": groups}))
    assert client.get_run(run).data.params == {
        "groups.CMC _ Hard.method.contrast": "hard_info_nce",
        "groups.OUCL_ w/o margin.method.alpha": "0",
    }
