"""Where the tests find data, and a disk that can be filled."""

import logging
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from metaug_ray.config import EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.data.prepare import prepare
from tests.log import Log
from tests.security.planted import ENVIRONMENT

# As it is read when Ray is imported. Tests of what a run leaves behind look for these secrets.
os.environ.update(ENVIRONMENT)

# Not the cluster that someone runs on this machine, or that `ray start` left in its files when it was killed.
os.environ["RAY_ADDRESS"] = "local"

# Ray's own 15 would let a job's workers wait for all other tests.
os.environ.update({"RAY_worker_niceness": "0"})

# Tests run in as many processes as there are cores: more threads would only wait for one another.
torch.set_num_threads(1)

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, or they would run alone at the end."""
    longest = ("docs/test_commands", "integration/test_sweep", "integration/test_killed_and_resumed")
    items.sort(key=lambda item: next((i for i, name in enumerate(longest) if name in item.nodeid), len(longest)))


@pytest.fixture(scope="session")
def cifar10_parquet() -> Path:
    """Folder of CIFAR-10's train.parquet and test.parquet."""
    return _shared("cifar10", "train.parquet")


@pytest.fixture(scope="session")
def imagenet_sample() -> Path:
    """125 JPEGs of ImageNet in synset folders."""
    return _shared("imagenet_sample", "n01440764")


@pytest.fixture(scope="session")
def shapes_beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """96 labelled shapes of 32 px."""
    output = tmp_path_factory.mktemp("shapes") / "shapes.beton"
    prepare(
        PrepareSettings(
            source=SourceSettings(kind="shapes", count=96, size=32),
            encoding=EncodingSettings(preset="small"),
            output=output,
            workers=1,
        )
    )
    return output


@pytest.fixture(scope="session")
def mlflow_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty one to copy: MLflow takes seconds to make its tables."""
    # It takes seconds to import as well, which most tests do without.
    from metaug_ray.tracking.connection import connect

    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    connect(f"sqlite:///{file}")
    return file


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Log:
    """What the package logs, as a command shows it."""
    caplog.set_level(logging.INFO, "metaug_ray")
    return Log(caplog)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"cannot mount a small disk here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def _shared(name: str, content: str) -> Path:
    folder = SHARED / "data" / name
    if not (folder / content).exists():
        pytest.skip(f"{name} is not at {folder}")
    return folder
