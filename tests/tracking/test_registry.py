"""Versions and aliases; no networks are needed for them."""

import threading
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from metaug_ray.tracking.connection import connect, find_experiment
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.tracking.registry import (
    CHAMPION,
    JUDGED,
    LATEST,
    check_promotable,
    find_champion,
    find_version,
    promote,
    register,
    renew,
)


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/mlflow.db"


def add(uri: str, accuracy: float | None, name: str = "encoder", metric: str = "knn/top1") -> str:
    client = connect(uri)
    run_id = client.create_run(find_experiment(client, uri, "metaug")).info.run_id
    model = client.create_logged_model(client.get_run(run_id).info.experiment_id, "encoder", run_id)
    tags = {"metaug.step": "5"} | ({} if accuracy is None else {metric: str(accuracy)})
    return register(name, f"models:/{model.model_id}", tags, "# card", run_id=run_id, uri=uri)


def aliases(uri: str) -> dict[str, str]:
    found = MlflowClient(uri).get_registered_model("encoder").aliases
    return {alias: str(version) for alias, version in found.items()}


def test_a_version_appears_whole_and_is_the_latest(uri: str) -> None:
    assert [add(uri, 0.3), add(uri, 0.4)] == ["1", "2"]
    version = MlflowClient(uri).get_model_version("encoder", "2")
    assert version.tags == {"metaug.step": "5", "knn/top1": "0.4"}
    assert (version.description, version.status) == ("# card", "READY")
    assert version.run_id
    assert aliases(uri) == {LATEST: "2"}


def test_only_the_better_one_is_promoted(uri: str) -> None:
    first, worse, better = add(uri, 0.5), add(uri, 0.4), add(uri, 0.6)
    assert promote("encoder", first, "knn/top1", uri=uri).promoted
    refused = promote("encoder", worse, "knn/top1", uri=uri)
    assert (refused.promoted, refused.champion) == (False, first)
    assert "its knn/top1 is 40.00%, and that of the champion, version 1, is 50.00%" in refused.sentence
    assert aliases(uri)[CHAMPION] == first
    assert promote("encoder", worse, "knn/top1", uri=uri, force=True).promoted
    assert aliases(uri)[CHAMPION] == worse
    # What counts is the present champion, not an earlier one.
    assert promote("encoder", first, "knn/top1", uri=uri).promoted
    assert promote("encoder", better, "knn/top1", uri=uri).promoted
    assert promote("encoder", better, "knn/top1", uri=uri).sentence == "version 3 is the champion already"
    assert aliases(uri) == {CHAMPION: better, LATEST: better}


def test_ranks_are_no_percentages(uri: str) -> None:
    low, high = (add(uri, rank, metric="online_rankme/mean") for rank in (34.5, 120.25))
    assert promote("encoder", high, "online_rankme/mean", uri=uri).sentence.endswith("its online_rankme/mean is 120.25")
    refused = promote("encoder", low, "online_rankme/mean", uri=uri)
    assert "its online_rankme/mean is 34.50, and that of the champion, version 2, is 120.25;" in refused.sentence


def test_a_challenge_of_an_earlier_reign_does_not_count(uri: str) -> None:
    """Version 2 beat version 1, was taken back by force, and stays so when version 3 beats version 1."""
    for accuracy in (0.5, 0.9, 0.6):
        add(uri, accuracy)
    promote("encoder", "1", "knn/top1", uri=uri)
    promote("encoder", "2", "knn/top1", uri=uri)
    promote("encoder", "1", "knn/top1", uri=uri, force=True)
    assert promote("encoder", "3", "knn/top1", uri=uri).promoted
    assert aliases(uri)[CHAMPION] == "3"


def test_what_was_judged_otherwise_is_not_compared(uri: str) -> None:
    add(uri, 0.5)
    promote("encoder", "1", "knn/top1", uri=uri)
    champion = find_champion("encoder", uri=uri)
    check_promotable(champion, {JUDGED + "linear": "other"}, "knn/top1")
    with pytest.raises(TrackingError, match=r"version 1 of 'encoder', was judged by nothing \(None\), and this"):
        check_promotable(champion, {JUDGED + "knn": "other"}, "knn/top1")
    with pytest.raises(TrackingError, match="has no linear/top1; it has: knn/top1"):
        check_promotable(champion, {}, "linear/top1")
    add(uri, 0.9)
    MlflowClient(uri).set_model_version_tag("encoder", "2", JUDGED + "knn", "other")
    with pytest.raises(TrackingError, match="evaluate both alike, or use --force"):
        promote("encoder", "2", "knn/top1", uri=uri)
    assert aliases(uri)[CHAMPION] == "1"
    check_promotable(find_champion("nobody", uri=uri), {}, "knn/top1")


def test_an_encoder_is_registered_once(uri: str) -> None:
    add(uri, 0.5)
    add(uri, 0.6)
    version = MlflowClient(uri).get_model_version("encoder", "1")
    assert find_version("encoder", version.run_id, 5, uri=uri) == "1"
    assert find_version("encoder", version.run_id, 6, uri=uri) is None
    assert find_version("nobody", version.run_id, 5, uri=uri) is None
    renew("encoder", "1", {"knn/top1": "0.7"}, "x" * 6000, uri=uri)
    version = MlflowClient(uri).get_model_version("encoder", "1")
    assert version.tags["knn/top1"] == "0.7"
    assert len(version.description) < 4900
    assert aliases(uri) == {LATEST: "2"}
    # Broken off before it got its alias.
    MlflowClient(uri).delete_registered_model_alias("encoder", LATEST)
    renew("encoder", "2", {}, "", uri=uri)
    assert aliases(uri) == {LATEST: "2"}


def test_of_two_promotions_at_once_the_better_one_wins(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both see the same champion before either has become it."""
    add(uri, 0.1)
    promote("encoder", "1", "knn/top1", uri=uri)
    worse, better = add(uri, 0.5), add(uri, 0.6)
    both = threading.Barrier(2)
    original = MlflowClient.set_model_version_tag

    def meet_first(client: MlflowClient, name: str, version: str, key: str, value: str) -> None:
        if key == "metaug.challenged":
            both.wait(20)
        original(client, name, version, key, value)

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


@pytest.mark.parametrize("written", [True, False])
def test_a_mark_that_another_writes_at_the_same_moment(
    uri: str, monkeypatch: pytest.MonkeyPatch, written: bool
) -> None:
    add(uri, 0.5)
    original = MlflowClient.set_model_version_tag

    def refuse(client: MlflowClient, name: str, version: str, key: str, value: str) -> None:
        if key != "metaug.reign" or written:
            original(client, name, version, key, value)
        if key == "metaug.reign":
            raise MlflowException("UNIQUE constraint failed")

    monkeypatch.setattr(MlflowClient, "set_model_version_tag", refuse)
    if written:
        assert promote("encoder", "1", "knn/top1", uri=uri).promoted
    else:
        with pytest.raises(TrackingError, match=r"does not promote it \(UNIQUE constraint failed"):
            promote("encoder", "1", "knn/top1", uri=uri)
    assert (CHAMPION in aliases(uri)) == written


def test_what_cannot_be_promoted_is_named(uri: str) -> None:
    add(uri, None)
    with pytest.raises(TrackingError, match=r"version 1 of 'encoder' has no knn/top1; it has: none"):
        promote("encoder", "1", "knn/top1", uri=uri)
    with pytest.raises(TrackingError, match=r"encoder version 7: MLflow .* does not promote it"):
        promote("encoder", "7", "knn/top1", uri=uri)
    assert CHAMPION not in aliases(uri)
