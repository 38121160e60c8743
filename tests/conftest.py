"""Where the tests find real data."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def cifar10_parquet() -> Path:
    """Folder of CIFAR-10's train.parquet and test.parquet."""
    folder = SHARED / "data" / "cifar10"
    if not (folder / "train.parquet").exists():
        pytest.skip(f"CIFAR-10 is not at {folder}")
    return folder
