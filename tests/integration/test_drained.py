"""A node that its cluster gives notice of: a checkpoint is written first, and nothing counts as a failure."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.cluster import FAST, Cluster
from tests.integration.jobs import logged_losses, train_job
from tests.training.small import small_settings

pytestmark = pytest.mark.slow

EPOCHS = 12
STEPS = 6 * EPOCHS


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    # Ray's sockets lie in it, whose paths must be short.
    with tempfile.TemporaryDirectory(prefix="drained-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        made = Cluster(Path(folder), nodes=2)
        try:
            yield made
        finally:
            made.stop()


def test_a_node_that_drains(cluster: Cluster, shapes_beton: Path, tmp_path: Path) -> None:
    settings = small_settings(
        shapes_beton,
        name="drained",
        training={"epochs": EPOCHS},
        storage=str(tmp_path),
        # None comes by itself: the only one is that of the notice.
        checkpoint={"every_steps": 10_000},
        compute={"address": cluster.address, "max_failures": 0, "max_failures_in_row": 0},
        tracking={"uri": f"sqlite:///{tmp_path}/mlflow.db"},
    )
    job = train_job(settings, tmp_path / "jobs", environment=FAST)
    job.wait_until(lambda: job.step() >= 5)
    cluster.drain_node(cluster.names[0], 8)
    assert job.finish() == 0, job.output
    output = job.output
    notice, counted = output.index("is taken away in"), output.index("which counts as no failure")
    (written,) = re.findall(r"checkpoint_0*(\d+) is written", output[notice:counted])
    assert f"goes on from step {written}" in output[counted:]
    assert 5 <= int(written) < STEPS
    assert list(logged_losses(tmp_path / "drained")) == list(range(1, STEPS + 1))
