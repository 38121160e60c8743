"""The image that manifests run."""

import pytest

from tests.cluster.documents import ROOT
from tests.cluster.image import Image, read_image


@pytest.fixture(scope="session")
def image() -> Image:
    return read_image((ROOT / "docker" / "Dockerfile").read_text())
