"""One Ray cluster for all of these tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import ray


@pytest.fixture(scope="session")
def ray_session() -> Iterator[tuple[str, Path]]:
    """Address and session folder of a cluster of three CPUs, which this process is part of."""
    with pytest.MonkeyPatch.context() as patch:
        # Reports wait for Ray Train's controller to look, every two seconds by default.
        patch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.1")
        context = ray.init(num_cpus=3, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
        try:
            yield context.address_info["gcs_address"], Path(context.address_info["session_dir"])
        finally:
            ray.shutdown()
