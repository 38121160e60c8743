"""One round of `python -m tests.chaos`: what a seed draws is killed at moments that it draws, and nothing is lost."""

from pathlib import Path

import pytest

from tests.chaos.kills import LOCAL
from tests.chaos.rounds import make_twin, play

pytestmark = pytest.mark.slow

SEED, KILLS, EPOCHS = 7, 1, 5


def test_a_run_ends_as_its_twin(shapes_beton: Path, tmp_path: Path) -> None:
    twin = make_twin(shapes_beton, tmp_path / "twin", EPOCHS)
    played = play(SEED, LOCAL, KILLS, twin, shapes_beton, tmp_path, None, print)
    assert not played.fault
    assert len(played.kills) == KILLS
