from pathlib import Path

import pytest

from metaug_ray.preflight.findings import Failed
from metaug_ray.preflight.probes import Probe
from metaug_ray.preflight.storage import Place, Written, check_storage, choose, neighbours, prepare, read, remove, write
from tests.data.nobody import as_nobody, needs_root
from tests.preflight.nodes import FIRST, HOME, the_fault

SIZE = 100_000


def prepared(folder: Path) -> Place:
    place = choose(str(folder))
    prepare(place)
    return place


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_node_reads_what_another_wrote_and_nothing_is_left(tmp_path: Path, scheme: str) -> None:
    place = choose(f"{scheme}{tmp_path}/not/there")
    assert not list(tmp_path.iterdir())
    token = prepare(place)
    wrote = write(place, "node-0", SIZE)
    assert wrote.token == token
    assert write(place, "node-1", SIZE).rate > 0
    assert read(place, "node-1", SIZE) > 0
    remove(place)
    remove(place)
    assert not list(tmp_path.iterdir())


def test_what_another_program_put_there_stays(tmp_path: Path) -> None:
    place = prepared(tmp_path / "runs")
    (tmp_path / "runs" / "mine").touch()
    remove(place)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


@needs_root
def test_a_storage_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    place = choose(str(tmp_path / "runs"))
    said = as_nobody(tmp_path, lambda: Probe().call(prepare, place))
    assert "Permission denied" in said
    found = the_fault(check_storage("", {}, {}, {FIRST: Failed(said)}, "/runs", 0))
    assert "that the user of Ray may write on every node" in found.advice
    assert not list((tmp_path / "runs").iterdir())


def test_a_storage_that_is_no_place(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown"):
        choose("unknown://bucket")


def test_a_disk_that_is_full(small_disk: Path) -> None:
    place = prepared(small_disk / "runs")
    told = Probe().call(write, place, "node-0", 32 << 20)
    assert isinstance(told, Failed)
    assert "No space left on device" in told.why
    remove(place)
    assert not list(small_disk.iterdir())


def test_a_folder_that_is_another_one_on_a_node(tmp_path: Path) -> None:
    place = choose(str(tmp_path / "shared"))
    token = prepare(place)
    (tmp_path / "own").mkdir()
    told = Probe().call(write, Place(str(tmp_path / "own"), place.name), "node-1", SIZE)
    assert isinstance(told, Failed)
    assert "is another folder here than on the driver's node" in told.why
    assert not list((tmp_path / "own").iterdir())
    # As after an earlier check whose folder stayed.
    other = {HOME: Written(token, 100.0), FIRST: Written("other", 100.0)}
    found = the_fault(check_storage(token, other, {HOME: 100.0}, {}, "/runs", 10))
    assert (found.node, found.measured) == (FIRST, "/runs holds other files than on the driver's node")


def test_a_file_that_others_see_late_or_in_part(tmp_path: Path) -> None:
    place = prepared(tmp_path)
    write(place, "node-0", SIZE)
    with pytest.raises(OSError, match=r"of 100001 bytes that another node wrote, 100000 bytes can be seen"):
        read(place, "node-0", SIZE + 1)
    with pytest.raises(OSError, match=r"of 100000 bytes that another node wrote, nothing can be seen"):
        read(place, "node-1", SIZE)
    remove(place)


def test_a_slow_storage() -> None:
    wrote = {HOME: Written("1", 100.0), FIRST: Written("1", 100.0)}
    found = the_fault(check_storage("1", wrote, {HOME: 100.0, FIRST: 3.0}, {}, "s3://runs", 10))
    assert found.measured == "s3://runs: writes 100 MB/s, reads 3 MB/s; expected at least 10 MB/s"


def test_each_reads_from_the_next() -> None:
    assert neighbours(["a", "b", "c"]) == {"a": "b", "b": "c", "c": "a"}
    assert neighbours(["a"]) == {"a": "a"}
