"""What is refused, or mended, before an encoder is exported."""

from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from metaug_ray.config import RegisterSettings
from metaug_ray.config.tracking import TrackingSettings
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.find_encoder import find_encoder
from metaug_ray.evaluation.register import _check_measured, _run_in_mlflow
from metaug_ray.runtime.run_folder import RunFolder
from metaug_ray.tracking.connection import connect
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.tracking.export import check_computes
from metaug_ray.tracking.runs import RunTracker
from tests.evaluation.finished import FinishedRun, finish_run


@pytest.fixture(scope="module")
def run(shapes_beton: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """Finished, with its journal."""
    run = finish_run(shapes_beton, tmp_path_factory.mktemp("runs"))
    tracker = RunTracker(run.uri, "metaug", "small", "small", Path(run.storage, "small/tracking"))
    tracker.metrics(12, {"loss/total": 0.5})
    tracker.close("FINISHED")
    return run


def made(uri: str) -> str:
    connect(uri)
    return uri


def wish(run: FinishedRun, uri: str, **changes: str) -> RegisterSettings:
    tracking = TrackingSettings(uri=uri)
    return RegisterSettings(encoder="run:small", name="x", storage=run.storage, tracking=tracking, **changes)


def test_a_finished_run_is_sent_to_an_mlflow_that_does_not_know_it(run: FinishedRun, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/other.db"
    description = find_encoder("run:small", run.storage, made(uri)).description
    folder = RunFolder(run.storage, "small")
    unfinished = folder.record or {}
    with pytest.raises(
        EvaluationError, match=rf"does not know run 'small'; its training command with --tracking.uri {uri}"
    ):
        _run_in_mlflow(wish(run, uri), description)
    folder.write_record(unfinished | {"finished": 1.0})
    run_id = _run_in_mlflow(wish(run, uri), description)
    assert run_id not in (run.run_id, description.run_id)
    client = MlflowClient(uri)
    assert client.get_run(run_id).info.status == "FINISHED"
    assert client.get_run(run_id).data.metrics == {"loss/total": 0.5}
    # Once.
    assert _run_in_mlflow(wish(run, uri), description) == run_id
    known = find_encoder("run:small", run.storage, uri).description
    assert known.run_id == run_id
    folder.write_record(unfinished)


def test_a_metric_that_was_mistyped_is_answered_with_the_one_that_was_meant(run: FinishedRun) -> None:
    measured = {"knn/top1": 0.5, "linear/top1": 0.6, "linear/top1_interval": 0.1}
    _check_measured(wish(run, run.uri, promote="knn/top1"), measured)
    with pytest.raises(EvaluationError, match=r"are: online_knn/top1; choose one of these, or measure it"):
        _check_measured(wish(run, run.uri, promote="knn/top1"), {"online_knn/top1": 0.5})
    for promote, said in (
        ("knn/top_1", r"measured are: knn/top1, linear/top1; did you mean knn/top1\? Or measure it with jobs/"),
        ("accuracy", r"measured are: knn/top1, linear/top1; choose one of these, or measure it with jobs/"),
    ):
        with pytest.raises(EvaluationError, match=said):
            _check_measured(wish(run, run.uri, promote=promote), measured)
    with pytest.raises(EvaluationError, match=r"has no knn/top1; measured are: none. Measure it with jobs/evaluate"):
        _check_measured(wish(run, run.uri, promote="knn/top1"), {})


def test_an_encoder_that_gives_no_numbers_is_refused(run: FinishedRun) -> None:
    encoder = find_encoder("run:small", run.storage, run.uri).encoder
    check_computes(encoder, 32)
    next(encoder.parameters()).data.fill_(1e38)
    with pytest.raises(
        TrackingError, match="encoder: its representations are not finite numbers: its training diverged"
    ):
        check_computes(encoder, 32)
