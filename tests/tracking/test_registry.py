"""Versions and aliases; no networks are needed for them."""

import threading
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from metaug_ray.tracking.registry import CHAMPION, LATEST, promote, register
from metaug_ray.tracking.runs import TrackingError, connect, find_experiment


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


def add(uri: str, accuracy: float | None, name: str = "encoder") -> str:
    client = connect(uri)
    run_id = client.create_run(find_experiment(client, uri, "metaug")).info.run_id
    model = client.create_logged_model(client.get_run(run_id).info.experiment_id, "encoder", run_id)
    tags = {"metaug.variant": "MetAug"} | ({} if accuracy is None else {"knn/top1": str(accuracy)})
    return register(name, f"models:/{model.model_id}", tags, "# card", run_id=run_id, uri=uri)


def aliases(uri: str) -> dict[str, str]:
    found = MlflowClient(uri).get_registered_model("encoder").aliases
    return {alias: str(version) for alias, version in found.items()}


def test_a_version_appears_whole_and_is_the_latest(uri: str) -> None:
    assert [add(uri, 0.3), add(uri, 0.4)] == ["1", "2"]
    version = MlflowClient(uri).get_model_version("encoder", "2")
    assert version.tags == {"metaug.variant": "MetAug", "knn/top1": "0.4"}
    assert (version.description, version.status) == ("# card", "READY")
    assert version.run_id
    assert aliases(uri) == {LATEST: "2"}


def test_only_the_better_one_is_promoted(uri: str) -> None:
    first, worse, better = add(uri, 0.5), add(uri, 0.4), add(uri, 0.6)
    assert promote("encoder", first, "knn/top1", uri=uri).promoted
    refused = promote("encoder", worse, "knn/top1", uri=uri)
    assert (refused.promoted, refused.champion) == (False, first)
    assert "its knn/top1 is 0.4, and that of the champion, version 1, is 0.5" in refused.sentence
    assert aliases(uri)[CHAMPION] == first
    assert promote("encoder", worse, "knn/top1", uri=uri, force=True).promoted
    assert aliases(uri)[CHAMPION] == worse
    # What counts is the present champion, not an earlier one.
    assert promote("encoder", first, "knn/top1", uri=uri).promoted
    assert promote("encoder", better, "knn/top1", uri=uri).promoted
    assert promote("encoder", better, "knn/top1", uri=uri).sentence == "version 3 is the champion already"
    assert aliases(uri) == {CHAMPION: better, LATEST: better}


def test_of_two_promotions_at_once_the_better_one_wins(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both see the same champion before either has become it."""
    add(uri, 0.1)
    promote("encoder", "1", "knn/top1", uri=uri)
    worse, better = add(uri, 0.5), add(uri, 0.6)
    both = threading.Barrier(2)
    original = MlflowClient.set_model_version_tag

    def meet_first(*arguments: object, **options: object) -> None:
        both.wait(20)
        original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(MlflowClient, "set_model_version_tag", meet_first)
    outcomes = {}

    def run(version: str) -> None:
        outcomes[version] = promote("encoder", version, "knn/top1", uri=uri)

    threads = [threading.Thread(target=run, args=(version,)) for version in (worse, better)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert aliases(uri)[CHAMPION] == better
    assert outcomes[better].promoted


def test_what_cannot_be_promoted_is_named(uri: str) -> None:
    add(uri, None)
    with pytest.raises(TrackingError, match=r"version 1 of 'encoder' has no knn/top1; it has: none"):
        promote("encoder", "1", "knn/top1", uri=uri)
    with pytest.raises(TrackingError, match=r"encoder version 7: MLflow .* does not promote it"):
        promote("encoder", "7", "knn/top1", uri=uri)
    assert CHAMPION not in aliases(uri)
