from pathlib import Path

from mlflow.tracking import MlflowClient

from metaug_ray.runtime.messages import Measured
from metaug_ray.runtime.run_folder import RunFolder
from metaug_ray.tracking.runs import RunTracker
from metaug_ray.training.monitor import Monitor
from tests.log import Log
from tests.training.small import small_settings


def test_a_collapse_is_told_of_each_view(tmp_path: Path, log: Log) -> None:
    """One dead view of three leaves their mean far above the limit."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    settings = small_settings(Path("/x.beton"), model={"views": ("rgb", "l", "ab")})
    tracker = RunTracker(uri, "metaug", "small", "key", tmp_path / "tracking")
    monitor = Monitor(settings, tracker, RunFolder(str(tmp_path), "small"))
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
