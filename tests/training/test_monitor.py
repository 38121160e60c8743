from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from metaug_ray.runtime.messages import NOTICED, CheckpointWritten, Measured
from metaug_ray.runtime.run_folder import RunFolder, checkpoint_name
from metaug_ray.runtime.stopping import Stopping
from metaug_ray.tracking.runs import RunTracker
from metaug_ray.training.monitor import Monitor
from tests.log import Log
from tests.training.small import small_settings


def test_a_collapse_is_told_of_each_view(tmp_path: Path, log: Log) -> None:
    """One dead view of three leaves their mean far above the limit."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    settings = small_settings(Path("/x.beton"), model={"views": ("rgb", "l", "ab")})
    tracker = RunTracker(uri, "metaug", "small", "key", tmp_path / "tracking")
    monitor = Monitor(settings, tracker, RunFolder(str(tmp_path), "small"), Stopping())
    well = {"feature_spread_rgb": 0.9, "feature_spread_l": 0.9, "feature_spread_ab": 0.8}
    for step, spread in ((1, 0.8), (2, 0.02), (3, 0.01), (4, 0.5), (5, 0.03)):
        values = well | {"feature_spread_ab": spread, "feature_spread": (1.8 + spread) / 3}
        monitor.take(Measured(step, values))
    told = [line for line in log.messages if line.startswith("WARNING")]
    assert [line[:74] for line in told] == [
        "WARNING: the features of the view ab collapse: their spread is 0.020 (1 is",
        "WARNING: the features of the view ab collapse: their spread is 0.030 (1 is",
    ]
    assert tracker.close("FINISHED") == 0
    tags = MlflowClient(uri).get_run(tracker.run_id).data.tags
    assert tags["metaug.warning"] == "features of the view ab collapsed at step 5: spread 0.030"


@pytest.mark.parametrize(("best_by", "kept"), [(None, 10), ("knn", 10), ("rankme", 20)])
def test_the_best_follows_the_metric_that_is_chosen(tmp_path: Path, log: Log, best_by: str | None, kept: int) -> None:
    settings = small_settings(Path("/x.beton"), health={"best_by": best_by, "knn": {"every": 1}})
    folder = RunFolder(str(tmp_path), "small")
    folder.make()
    tracker = RunTracker(f"sqlite:///{tmp_path}/mlflow.db", "metaug", "small", "key", tmp_path / "tracking")
    monitor = Monitor(settings, tracker, folder, Stopping())
    for step, accuracy, rank in ((10, 0.5, 7.0), (20, 0.4, 9.5), (30, 0.3, 8.0)):
        name = checkpoint_name(step)
        (tmp_path / "small" / name).mkdir()
        measured = {"knn/accuracy": accuracy, "rankme/l": rank - 1, "rankme/ab": rank + 1, "rankme/mean": rank}
        monitor.take(Measured(step, measured))
        monitor.take(CheckpointWritten(name, step, measured | {"step": step}))
    monitor.take(CheckpointWritten("checkpoint_000000035", 35, {"step": 35}))
    tracker.close("FINISHED")
    best = folder.best()
    assert best is not None
    assert best.name == checkpoint_name(kept)
    assert "kNN accuracy 50.0%, RankMe 7.0 (l 6.0, ab 8.0) after 10 steps" in log.messages


def test_a_run_that_is_asked_to_end_does_so_once_a_checkpoint_is_written(tmp_path: Path, log: Log) -> None:
    settings, folder = small_settings(Path("/x.beton")), RunFolder(str(tmp_path), "small")
    folder.make()
    tracker = RunTracker(f"sqlite:///{tmp_path}/mlflow.db", "metaug", "small", "key", tmp_path / "tracking")
    stopping = Stopping(grace=60)
    monitor = Monitor(settings, tracker, folder, stopping)
    written = CheckpointWritten(checkpoint_name(7), 7, {"step": 7})
    monitor.take(written)
    assert not stopping.now.is_set()
    stopping.soon.set()
    # It was on its way when the signal came.
    monitor.take(written)
    assert not stopping.now.is_set()
    monitor.take(CheckpointWritten(checkpoint_name(9), 9, {"step": 9, NOTICED: 1.0}))
    assert stopping.now.is_set()
    tracker.close("KILLED")


def test_machines_that_are_taken_away_are_no_failure(tmp_path: Path, log: Log) -> None:
    settings, folder = small_settings(Path("/x.beton")), RunFolder(str(tmp_path), "small")
    folder.make()
    tracker = RunTracker(f"sqlite:///{tmp_path}/mlflow.db", "metaug", "small", "key", tmp_path / "tracking")
    monitor = Monitor(settings, tracker, folder, Stopping())
    assert [folder.count_start("checkpoint_000000007") for _ in range(2)] == [1, 2]
    monitor.machines_taken("preempted_ranks=[1]")
    assert folder.count_start("checkpoint_000000007") == 1
    assert monitor.restarts == 0
    assert any("counts as no failure" in line for line in log.messages)
    tracker.close("FINISHED")
