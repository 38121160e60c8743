import json
from pathlib import Path

import pytest

from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import manifest_path, parse_manifest, read_manifest
from tests.data.images import prepare_tree


@pytest.fixture(scope="module")
def beton(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tree(tmp_path_factory.mktemp("beton"))[0]


def copy(beton: Path, folder: Path) -> Path:
    target = folder / "copy.beton"
    target.write_bytes(beton.read_bytes())
    manifest_path(target).write_bytes(manifest_path(beton).read_bytes())
    return target


def test_says_what_is_in_the_beton(beton: Path) -> None:
    manifest = read_manifest(beton)
    assert manifest.samples == 18
    assert manifest.classes == ["cat", "dog", "emu"]
    assert manifest.class_counts == [6, 6, 6]
    assert (manifest.height, manifest.width) == ((20, 25), (25, 40))
    assert manifest.encoding == {"kind": "raw", "max_resolution": 128}
    assert manifest.source["kind"] == "imagefolder"
    assert manifest.versions["ffcv"] == "1.0.2"
    assert manifest.bytes == beton.stat().st_size


def test_missing_beton_and_missing_manifest(beton: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such beton; make it with"):
        read_manifest(tmp_path / "nothing.beton")
    target = copy(beton, tmp_path)
    manifest_path(target).unlink()
    with pytest.raises(DataError, match=r"has no manifest copy\.beton\.json beside it, so it may be unfinished"):
        read_manifest(target)


def test_truncated_beton(beton: Path, tmp_path: Path) -> None:
    target = copy(beton, tmp_path)
    target.write_bytes(beton.read_bytes()[:-1])
    with pytest.raises(
        DataError, match=r"bytes where its manifest says .*truncated, or the manifest belongs to another"
    ):
        read_manifest(target)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Invalid JSON"),
        ("{}", "source: Field required"),
        ("[1]", "is not a beton's manifest"),
        ("not", "Invalid JSON"),
    ],
)
def test_text_that_is_no_manifest(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_manifest(text, "x.json")


@pytest.mark.parametrize(("field", "value"), [("format", 2), ("samples", 0), ("sha256", "abc"), ("unknown", 1)])
def test_fields_that_do_not_fit(beton: Path, field: str, value: object) -> None:
    content = json.loads(manifest_path(beton).read_text())
    with pytest.raises(DataError, match=f"{field}.*prepare the data again"):
        parse_manifest(json.dumps(content | {field: value}), "x.json")


def test_a_manifest_of_an_earlier_version(beton: Path) -> None:
    content = json.loads(manifest_path(beton).read_text())
    for field in ("grey", "one_colour", "dark", "passed_over"):
        del content[field]
    manifest = parse_manifest(json.dumps(content), "x.json")
    assert (manifest.grey, manifest.one_colour, manifest.dark, manifest.passed_over) == (None, None, None, [])
