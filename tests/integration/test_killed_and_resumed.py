"""Runs on Ray that are killed, against the same run that was not: same losses, same weights, same bank.

Another number of workers goes on with a run in `tests/training/test_resuming.py`; `python -m tests.chaos` kills at
random, nodes and heads too.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow.tracking import MlflowClient

from metaug_ray.config import PretrainSettings
from metaug_ray.config.contrasts import Unified
from metaug_ray.runtime.run_folder import RunFolder
from metaug_ray.training.errors import TrainingError
from metaug_ray.training.trainer import pretrain
from tests.integration.jobs import Job, logged_losses, train_job, workers_of
from tests.ranks import run_ranks
from tests.training.small import check_same, losses, plain_metrics, small_settings, tensors_of

pytestmark = pytest.mark.slow

EPOCHS = 12
STEPS = 6 * EPOCHS


@dataclass
class Cluster:
    """A Ray cluster, and where its runs lie."""

    address: str
    session: Path
    folder: Path
    beton: Path

    def settings(self, name: str, **changes: Any) -> PretrainSettings:
        changes = {"checkpoint": {}, "compute": {}} | changes
        return small_settings(
            self.beton,
            name=name,
            training={"epochs": EPOCHS},
            storage=str(self.folder),
            checkpoint=changes["checkpoint"],
            compute={"address": self.address, **changes["compute"]},
            tracking={"uri": f"sqlite:///{self.folder}/mlflow.db"},
        )

    def start(self, settings: PretrainSettings) -> Job:
        # Reports wait for Ray Train's controller to look, every two seconds by default.
        environment = {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1"}
        return train_job(settings, self.folder / "jobs", environment=environment)


@pytest.fixture(scope="module")
def cluster(ray_session: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory, shapes_beton: Path) -> Cluster:
    address, session = ray_session
    return Cluster(address, session, tmp_path_factory.mktemp("runs"), shapes_beton)


@pytest.fixture(scope="module")
def uninterrupted(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[int, float], Path]:
    """Losses and last checkpoint of the same run under plain PyTorch, two processes."""
    folder = tmp_path_factory.mktemp("plain")
    seen = run_ranks(2, folder / "ranks", plain_metrics, cluster.settings("plain"), folder)[0]
    return losses(seen), folder / f"checkpoint_{STEPS:09d}"


def test_a_worker_is_killed_then_the_driver_with_all_workers_then_the_job_is_stopped(
    cluster: Cluster, uninterrupted: tuple[dict[int, float], Path], tmp_path: Path
) -> None:
    settings = cluster.settings("killed", checkpoint={"grace_seconds": 120}, compute={"max_driver_restarts": 1})
    job = cluster.start(settings)
    # In the middle of an epoch of six steps: Ray starts all workers again.
    job.wait_for("checkpoint_000000007 is written")
    workers = workers_of(cluster.session)
    assert len(workers) == 2
    workers[1].kill()
    job.wait_for("goes on from step")
    # Driver and workers, while a checkpoint is written: its own folder is there from the moment a worker begins to
    # write until its files are copied to the storage. The driver's parent begins again by itself.
    partial = cluster.session / "artifacts" / "killed" / "checkpoint-of-worker-0"
    seen = len(job.lines)
    job.wait_until(lambda: "step 21 " in "".join(job.lines[seen:]) and partial.exists(), pause=0.002)
    (driver,) = psutil.Process(job.process.pid).children()
    for process in (driver, *workers_of(cluster.session)):
        process.kill()
    seen = len(job.lines)
    # The same as `ray job stop` sends, but for the time that it leaves.
    job.wait_until(lambda: job.step() >= 24 and "goes on from step" in "".join(job.lines[seen:]))
    job.process.terminate()
    assert job.finish() == 130
    _gone(cluster)
    assert "the driver was ended by SIGKILL, as Linux does where memory runs out; it begins again" in job.output
    assert "asked to end: a checkpoint is written first" in job.output
    assert "failure 1 of 20 allowed" in job.output
    assert "failure 2 of 20 allowed" not in job.output
    assert job.output.count("goes on from step") == 2
    whole = RunFolder(str(cluster.folder), "killed").checkpoints()
    assert whole
    assert f"checkpoint_{STEPS:09d}" not in whole
    stopped = int(whole[-1].removeprefix("checkpoint_"))
    assert stopped >= 24  # written as it was asked to end

    # While nobody trains, the last checkpoint loses a bit, and the one before the one before it is taken away.
    run = cluster.folder / "killed"
    part = max((run / whole[-1]).glob("*.distcp"), key=lambda file: file.stat().st_size)
    content = part.read_bytes()
    part.write_bytes(content[:5000] + bytes([content[5000] ^ 1]) + content[5001:])
    for name in whole[:-2]:
        shutil.rmtree(run / name)
    again = cluster.start(settings)
    assert again.finish() == 0, again.output
    assert f"{part.name} holds other bytes than were written; it is kept as damaged_{whole[-1]}" in again.output
    assert f"goes on from step {int(whole[-2].removeprefix('checkpoint_'))}" in again.output
    assert all(f"{name}: missing in {run}, and no longer counted" in again.output for name in whole[:-2])
    assert (run / f"damaged_{whole[-1]}" / part.name).exists()
    assert RunFolder(str(cluster.folder), "killed").checkpoints()[-2:] == [
        f"checkpoint_{step:09d}" for step in (70, STEPS)
    ]
    expected, checkpoint = uninterrupted
    assert logged_losses(run) == pytest.approx(expected, rel=1e-6)
    assert list(logged_losses(run)) == list(range(1, STEPS + 1))
    check_same(tensors_of(run / checkpoint.name, tmp_path / "ours"), tensors_of(checkpoint, tmp_path / "theirs"))

    client = MlflowClient(f"sqlite:///{cluster.folder}/mlflow.db")
    runs = client.search_runs(["1"], "tags.`mlflow.runName` = 'killed'")
    assert [(r.info.status, r.data.tags["metaug.starts"]) for r in runs] == [("FINISHED", "3")]
    history = client.get_metric_history(runs[0].info.run_id, "loss/total")
    assert sorted(metric.step for metric in history) == list(range(1, STEPS + 1))

    method = settings.method.model_copy(update={"unified": Unified(beta=8.0)})
    with pytest.raises(TrainingError, match=r"method.unified.beta: 16.0 -> 8.0"):
        pretrain(settings.model_copy(update={"method": method}))
    assert pretrain(settings).checkpoints[-1] == f"checkpoint_{STEPS:09d}"  # finished already


def _gone(cluster: Cluster) -> None:
    psutil.wait_procs(workers_of(cluster.session), timeout=30)
    assert not workers_of(cluster.session)
