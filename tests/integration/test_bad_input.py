"""What is wrong is named before a worker starts."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import ray
from mlflow.tracking import MlflowClient

from metaug_ray.config import EncodingSettings, PrepareSettings, PretrainSettings, SourceSettings
from metaug_ray.config.recorded import fixed_settings
from metaug_ray.config.tracking import TrackingSettings
from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import read_manifest
from metaug_ray.data.prepare import prepare
from metaug_ray.evaluation.find_encoder import find_encoder
from metaug_ray.runtime.errors import ClusterError, StorageError
from metaug_ray.runtime.run_folder import RunFolder
from metaug_ray.tracking.connection import connect, find_experiment
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.training.errors import TrainingError
from metaug_ray.training.trainer import pretrain
from tests.data.nobody import as_nobody, needs_root
from tests.evaluation.finished import finish_run
from tests.training.small import merged, small_settings


def at(folder: Path, beton: Path, **changes: Any) -> PretrainSettings:
    own = {"storage": str(folder / "runs"), "tracking": {"uri": f"sqlite:///{folder}/mlflow.db"}}
    return small_settings(beton, **merged(own, changes))


def begun(folder: Path, settings: PretrainSettings, sha256: str) -> None:
    """What a run leaves on the storage when it begins."""
    run = RunFolder(settings.storage, settings.name)
    run.make()
    data = {"beton": settings.data.beton, "sha256": sha256, "samples": 96}
    run.write_record({"id": "1", "fork": None, "fixed": fixed_settings(settings), "data": data})


def test_a_beton_that_is_missing_or_broken(tmp_path: Path, shapes_beton: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.beton: no such beton; make it with jobs/prepare_data.py"):
        pretrain(at(tmp_path, tmp_path / "nowhere.beton"))
    with pytest.raises(DataError, match=r"file:///nowhere.beton.json: cannot be opened"):
        pretrain(
            at(tmp_path, shapes_beton, data={"beton": "file:///nowhere.beton"}, compute={"staging": str(tmp_path)})
        )
    short = tmp_path / "short.beton"
    short.write_bytes(shapes_beton.read_bytes()[:-1])
    short.with_name("short.beton.json").write_bytes(shapes_beton.with_name("shapes.beton.json").read_bytes())
    with pytest.raises(DataError, match=r"it is truncated"):
        pretrain(at(tmp_path, short))
    with pytest.raises(TrainingError, match=r"batch_size: a batch of 128 images is more than the 96 of .*shapes.beton"):
        pretrain(at(tmp_path, shapes_beton, training={"batch_size": 128}))
    assert not (tmp_path / "runs").exists()


def test_a_beton_of_another_data_set_than_the_runs(tmp_path: Path, shapes_beton: Path) -> None:
    settings = at(tmp_path, shapes_beton)
    begun(tmp_path, settings, "0" * 64)
    with pytest.raises(
        TrainingError, match=r"(?s)data.beton: .* \(SHA-256 000000000000...\) -> .*Go on with the old ones"
    ):
        pretrain(settings)


def test_other_classes_for_knn(tmp_path: Path, shapes_beton: Path) -> None:
    images = tmp_path / "images/only_one_class"
    images.mkdir(parents=True)
    other = tmp_path / "other.beton"
    source = SourceSettings(kind="shapes", count=10, size=16)
    prepare(PrepareSettings(source=source, encoding=EncodingSettings(preset="small"), output=other, workers=1))
    manifest = other.with_name("other.beton.json")
    manifest.write_text(manifest.read_text().replace('"classes": [', '"classes": [\n    "extra",'))
    with pytest.raises(TrainingError, match=r"health.knn.beton: .*other.beton has 9 classes .* --source.classes"):
        pretrain(at(tmp_path, shapes_beton, health={"knn": {"every": 1, "beton": str(other)}}))


def test_the_training_images_as_their_own_queries(tmp_path: Path, shapes_beton: Path) -> None:
    copy = tmp_path / "copy.beton"
    copy.write_bytes(shapes_beton.read_bytes())
    copy.with_name("copy.beton.json").write_bytes(shapes_beton.with_name("shapes.beton.json").read_bytes())
    with pytest.raises(
        TrainingError, match=r"health.knn.beton: .*copy.beton holds the images of .*shapes.beton, so each"
    ):
        pretrain(at(tmp_path, shapes_beton, health={"knn": {"every": 1, "beton": str(copy)}}))


def test_a_deleted_experiment_and_a_registry_are_looked_at_first(tmp_path: Path, shapes_beton: Path) -> None:
    settings = at(tmp_path, shapes_beton)
    client = connect(settings.tracking.uri)
    client.delete_experiment(find_experiment(client, settings.tracking.uri, settings.tracking.experiment))
    with pytest.raises(TrackingError, match=r"tracking.experiment: 'metaug' was deleted"):
        pretrain(settings)
    assert not list((tmp_path / "runs").iterdir())


def test_a_run_that_ended_without_a_checkpoint_is_no_success(tmp_path: Path, shapes_beton: Path) -> None:
    """As 0.2.0 left runs of which each step was skipped."""
    settings = at(tmp_path, shapes_beton)
    begun(tmp_path, settings, read_manifest(shapes_beton).sha256)
    folder = RunFolder(settings.storage, settings.name)
    folder.write_record((folder.record or {}) | {"finished": 1.0})
    with pytest.raises(
        TrainingError, match=r"run 'small' has ended without a checkpoint in .*; train again under a new"
    ):
        pretrain(settings)


def test_a_finished_run_follows_to_the_mlflow_that_is_named(
    tmp_path: Path, shapes_beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    run = finish_run(shapes_beton, tmp_path)
    folder = RunFolder(run.storage, run.settings.name)
    folder.write_record((folder.record or {}) | {"finished": 1.0})
    moved = f"sqlite:///{tmp_path}/other/mlflow.db"
    outcome = pretrain(run.settings.model_copy(update={"tracking": TrackingSettings(uri=moved)}))
    assert (outcome.tracking_uri, outcome.run_id == run.run_id) == (moved, False)
    assert (folder.record or {})["mlflow"] == {"uri": moved, "run_id": outcome.run_id}
    # Where nobody says anything, it stays there; and each MLflow knows its own.
    assert pretrain(run.settings.model_copy(update={"tracking": TrackingSettings()})).tracking_uri == moved
    assert find_encoder("run:small", run.storage, moved).description.run_id == outcome.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/third/mlflow.db")
    third = pretrain(run.settings.model_copy(update={"tracking": TrackingSettings()}))
    assert third.tracking_uri == f"sqlite:///{tmp_path}/third/mlflow.db"
    assert find_encoder("run:small", run.storage, moved).description.run_id == outcome.run_id


@needs_root
def test_a_storage_that_cannot_be_written(tmp_path: Path, shapes_beton: Path) -> None:
    (tmp_path / "runs").mkdir()
    refused = as_nobody(tmp_path, RunFolder(str(tmp_path / "runs"), "small").make)
    assert "cannot be written" in refused
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"storage: .*file/small cannot be written"):
        pretrain(at(tmp_path, shapes_beton, storage=str(tmp_path / "file")))


def test_an_mlflow_that_is_not_there(tmp_path: Path, shapes_beton: Path) -> None:
    began = time.monotonic()
    with pytest.raises(TrackingError, match=r"tracking.uri: MLflow at http://127.0.0.1:9 cannot be used"):
        pretrain(at(tmp_path, shapes_beton, tracking={"uri": "http://127.0.0.1:9"}))
    assert time.monotonic() - began < 30


def test_a_fork_of_what_is_no_run_or_of_other_networks(tmp_path: Path, shapes_beton: Path) -> None:
    with pytest.raises(TrainingError, match=r"fork: .*/absent is no run with a checkpoint"):
        pretrain(at(tmp_path, shapes_beton, fork="absent"))
    old = at(tmp_path, shapes_beton, name="old", model={"feature_size": 8})
    begun(tmp_path, old, "0" * 64)
    listed = '{"checkpoint_results": [{"checkpoint_dir_name": "checkpoint_000000001"}]}'
    (tmp_path / "runs/old/checkpoint_manager_snapshot.json").write_text(listed)
    (tmp_path / "runs/old/checkpoint_000000001").mkdir()
    with pytest.raises(
        TrainingError,
        match=r"fork: the networks of 'old' are others:\n  model.feature_size: 8 -> .*\nKeep these as they were",
    ):
        pretrain(at(tmp_path, shapes_beton, fork="old"))


def test_two_drivers_of_one_run(tmp_path: Path, shapes_beton: Path) -> None:
    settings = at(tmp_path, shapes_beton)
    folder = RunFolder(settings.storage, settings.name)
    folder.make()
    lock = folder.lock()
    assert lock is not None
    with pytest.raises(StorageError, match="run 'small' is already running"):
        pretrain(settings)
    lock.release()


@pytest.mark.slow
def test_what_the_cluster_cannot_hold(
    ray_session: tuple[str, Path], tmp_path: Path, shapes_beton: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"48 workers x 1 CPUs = 48 CPUs, but the cluster has room for"):
        pretrain(at(tmp_path, shapes_beton, training={"batch_size": 96}, compute={"workers": 48}))
    assert time.monotonic() - began < 60  # Ray by itself would try for ever
    # A refused run leaves nothing, neither here nor in MLflow.
    assert not list((tmp_path / "runs").iterdir())
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert not client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ClusterError, match=r"compute.address: no Ray cluster at 127.0.0.1:9"):
        pretrain(at(tmp_path, shapes_beton, compute={"address": "127.0.0.1:9"}))


def test_shards_that_the_run_cannot_be_dealt(tmp_path: Path) -> None:
    source = SourceSettings(kind="shapes", count=30, size=16)
    small, dealt = EncodingSettings(preset="small"), tmp_path / "dealt.beton"
    prepare(PrepareSettings(source=source, encoding=small, output=dealt, shards=3, workers=1))
    with pytest.raises(DataError, match="the 16 images of a global batch do not divide among its 3 shards"):
        pretrain(at(tmp_path, dealt))
    with pytest.raises(DataError, match=r"3 shards, of which no worker can sort all images; set data\.order to perm"):
        pretrain(at(tmp_path, dealt, training={"batch_size": 12}, data={"order": "sort"}))
    shard = dealt / "00001.beton"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"00001\.beton: has .* it is truncated"):
        pretrain(at(tmp_path, dealt, training={"batch_size": 12}))
    shard.unlink()
    with pytest.raises(DataError, match=r"00001\.beton: this shard is missing"):
        pretrain(at(tmp_path, dealt, training={"batch_size": 12}))
    shard.write_bytes(whole)
    manifest = dealt.with_name("dealt.beton.json")
    content = json.loads(manifest.read_text())
    content["class_counts"][0] -= 1
    manifest.write_text(json.dumps(content))
    knn = {"knn": {"every": 1, "references": 10, "queries": 10}}
    with pytest.raises(TrainingError, match="29 of its 30 images have labels, and of many shards no worker knows"):
        pretrain(at(tmp_path, dealt, training={"batch_size": 12}, health=knn))
    assert not (tmp_path / "runs").exists()


def test_a_run_of_before_permutations_goes_on_by_sorting(tmp_path: Path, shapes_beton: Path) -> None:
    settings = at(tmp_path, shapes_beton)
    begun(tmp_path, settings, read_manifest(shapes_beton).sha256)
    folder = RunFolder(settings.storage, settings.name)
    record = folder.record or {}
    del record["fixed"]["data"]["order"]
    folder.write_record(record | {"finished": 1.0})
    with pytest.raises(TrainingError, match="has ended without a checkpoint"):  # which is what comes next
        pretrain(settings)
    with pytest.raises(TrainingError, match=r"data\.order: sort -> permutation"):
        pretrain(at(tmp_path, shapes_beton, data={"order": "permutation"}))
