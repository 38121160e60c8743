import shutil
from pathlib import Path

import pytest

from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import read_manifest
from metaug_ray.data.staging import stage
from metaug_ray.preflight.betons import check_beton, look_at_beton
from metaug_ray.preflight.findings import Failed
from metaug_ray.preflight.probes import Probe
from tests.preflight.nodes import FIRST, HOME, the_fault


@pytest.fixture
def copy(shapes_beton: Path, tmp_path: Path) -> Path:
    for name in ("shapes.beton", "shapes.beton.json"):
        shutil.copy(shapes_beton.with_name(name), tmp_path)
    return tmp_path / "shapes.beton"


def test_the_same_beton_on_two_nodes(shapes_beton: Path, copy: Path) -> None:
    seen = look_at_beton(str(shapes_beton), None)
    assert (seen.bytes, seen.sha256) == (shapes_beton.stat().st_size, read_manifest(shapes_beton).sha256)
    told = {HOME: seen, FIRST: look_at_beton(str(copy), None)}
    assert {found.verdict for found in check_beton("x.beton", told, {}, HOME)} == {"ok"}


def test_a_beton_that_one_node_lacks(shapes_beton: Path, tmp_path: Path) -> None:
    missing = Probe().call(look_at_beton, str(tmp_path / "shapes.beton"), None)
    assert isinstance(missing, Failed)
    found = the_fault(check_beton("x", {HOME: look_at_beton(str(shapes_beton), None)}, {FIRST: missing}, HOME))
    assert (found.node, "shapes.beton: no such beton" in found.measured) == (FIRST, True)


def test_a_beton_that_is_cut_short(copy: Path) -> None:
    copy.write_bytes(copy.read_bytes()[:-1])
    with pytest.raises(DataError, match="truncated"):
        look_at_beton(str(copy), None)


def test_other_bytes_under_the_same_manifest(shapes_beton: Path, copy: Path) -> None:
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    told = {HOME: look_at_beton(str(shapes_beton), None), FIRST: look_at_beton(str(copy), None)}
    assert "it has other content (its bytes)" in the_fault(check_beton("x", told, {}, HOME)).measured


def test_another_version_of_the_beton(shapes_beton: Path, copy: Path) -> None:
    manifest = copy.with_name("shapes.beton.json")
    manifest.write_text(manifest.read_text().replace(read_manifest(copy).sha256, "0" * 64))
    told = {HOME: look_at_beton(str(shapes_beton), None), FIRST: look_at_beton(str(copy), None)}
    found = the_fault(check_beton("x", told, {}, HOME))
    assert f"({read_manifest(shapes_beton).sha256[:12]} in its manifest)" in found.measured


def test_the_copy_is_where_a_run_would_stage_it(shapes_beton: Path, tmp_path: Path) -> None:
    seen = look_at_beton(shapes_beton.as_uri(), tmp_path)
    assert seen.copy == stage(shapes_beton.as_uri(), tmp_path)
