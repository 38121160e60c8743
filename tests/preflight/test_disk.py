from pathlib import Path

import pytest

from metaug_ray.preflight.disk import Disk, check_disk, look_at_disk
from metaug_ray.preflight.findings import Failed
from metaug_ray.preflight.rates import Rates
from tests.data.nobody import as_nobody, needs_root
from tests.preflight.nodes import FIRST, HOME, the_fault

FOLDER = Path("/staging")
GOOD = Disk(free=1 << 40, needed=1 << 30, rates=Rates(900.0, 1900.0))


def test_a_folder_that_is_not_there_is_made_for_a_while(tmp_path: Path) -> None:
    found = look_at_disk(tmp_path / "not" / "there", [(tmp_path / "not/there/a.beton", 7)], 100_000)
    assert (found.needed, found.rates is not None) == (7, True)
    assert not list(tmp_path.iterdir())


def test_what_is_staged_already_needs_no_room(tmp_path: Path) -> None:
    (tmp_path / "a.beton").touch()
    copies = [(tmp_path / "a.beton", 1 << 50), (tmp_path / "b.beton", 5)]
    assert look_at_disk(tmp_path, copies, 1000).needed == 5
    assert [path.name for path in tmp_path.iterdir()] == ["a.beton"]


def test_a_disk_without_room_for_the_betons(small_disk: Path) -> None:
    told = look_at_disk(small_disk, [(small_disk / "a.beton", 1 << 30)], 1000)
    found = the_fault(check_disk({HOME: GOOD, FIRST: told}, {}, FOLDER, 50))
    assert (found.node, found.measured) == (FIRST, "/staging: 16.0 MiB free for 1.0 GiB to stage")


def test_a_disk_that_is_full(small_disk: Path) -> None:
    told = look_at_disk(small_disk, [], 32 << 20)
    assert told.rates is None
    assert the_fault(check_disk({FIRST: told}, {}, FOLDER, 50)).measured == "/staging: 16.0 MiB free"
    assert not list(small_disk.iterdir())


@needs_root
def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    said = as_nobody(tmp_path, lambda: look_at_disk(tmp_path / "disk" / "staging", [], 1000))
    assert "Permission denied" in said
    assert "--compute.staging" in the_fault(check_disk({}, {FIRST: Failed(said)}, FOLDER, 50)).advice


@pytest.mark.parametrize("rates", [Rates(20.0, 1900.0), Rates(900.0, 20.0)])
def test_a_slow_disk(rates: Rates) -> None:
    found = the_fault(check_disk({HOME: GOOD, FIRST: Disk(1 << 40, 0, rates)}, {}, FOLDER, 50))
    assert (found.node, found.measured.endswith("expected at least 50 MB/s")) == (FIRST, True)
