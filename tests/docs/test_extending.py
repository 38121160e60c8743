"""`docs/extending.md`, followed as it is written, on a copy of the package."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.following import follow
from tests.docs.pages import EXTENDING, ROOT, Block, blocks
from tests.docs.stand_in import write_stand_ins

pytestmark = pytest.mark.slow

TRAINS = Path(__file__).with_name("trains_with_all.py")


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package to which everything was added."""
    root = tmp_path_factory.mktemp("extended")
    for name in ("metaug_ray", "jobs"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    for block in blocks(EXTENDING, "python"):
        follow(block, root)
    write_stand_ins(root / "bin")
    return root


@pytest.fixture
def environment(extended: Path) -> dict[str, str]:
    return {
        "HOME": str(extended),
        "PATH": f"{extended / 'bin'}:{os.defpath}",
        "PYTHONPATH": str(extended),
        "DOCS_RECORD": str(extended / "records.jsonl"),
        # Training itself is in the test below, without Ray.
        "METAUG_PRINT_CONFIG": "true",
    }


@pytest.mark.parametrize("block", blocks(EXTENDING, "bash"), ids=lambda block: f"line {block.line}")
def test_commands_know_what_was_added(block: Block, extended: Path, environment: dict[str, str]) -> None:
    told = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text], cwd=extended, env=environment, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr


def test_a_run_with_all_of_it(extended: Path, environment: dict[str, str]) -> None:
    """Trains two steps with generators, and exports the encoder."""
    told = subprocess.run(
        [sys.executable, str(TRAINS), "data/mine.beton"], cwd=extended, env=environment, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert "similarity/gap" in told.stdout
