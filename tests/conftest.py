"""Where the tests find real data."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def cifar10_parquet() -> Path:
    """Folder of CIFAR-10's train.parquet and test.parquet."""
    return _shared("cifar10", "train.parquet")


@pytest.fixture(scope="session")
def imagenet_sample() -> Path:
    """125 JPEGs of ImageNet in synset folders."""
    return _shared("imagenet_sample", "n01440764")


def _shared(name: str, content: str) -> Path:
    folder = SHARED / "data" / name
    if not (folder / content).exists():
        pytest.skip(f"{name} is not at {folder}")
    return folder
