import os
from pathlib import Path

import pytest

from metaug_ray.config import EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import manifest_path, read_manifest
from metaug_ray.data.prepare import prepare
from metaug_ray.data.sources.classes import check_classes, labels_of, other_classes, read_classes
from tests.data.images import prepare_tree


def test_names_of_any_script_and_signs(tmp_path: Path) -> None:
    names = ("$5_to_$10", "data[1]", "a b", "~", "猫", "{}", "%s", "new\nline")
    assert check_classes(names, "x") == names


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("dog", os.fsdecode(b"caf\xe9")), r"x: the class name 'caf\\xe9' is not UTF-8; rename it"),
        (("dog", " "), "x: a class has the empty name ' '"),
        (("dog", "dog "), "'dog' and 'dog ' are the same name"),
        (("café", "cafe\u0301"), "are the same name"),
    ],
)
def test_names_that_cannot_serve(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check_classes(names, "x")


def test_a_list_in_a_text_file_and_in_a_beton(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_bytes("\ufeffemu\r\n\r\na cat\r\n".encode())
    assert read_classes(str(tmp_path / "classes.txt")) == ("emu", "a cat")
    beton, manifest = prepare_tree(tmp_path, per_class=2)
    for place in (str(beton), f"{beton}.json", f"file://{beton}"):
        assert read_classes(place) == tuple(manifest.classes)


def test_lists_that_cannot_serve(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("cat\n")
    with pytest.raises(DataError, match=r"one\.txt: found 1 class \('cat'\)"):
        read_classes(str(tmp_path / "one.txt"))
    with pytest.raises(DataError, match=r"no\.beton: no such beton"):
        read_classes(str(tmp_path / "no.beton"))
    beton, manifest = prepare_tree(tmp_path, per_class=2)
    unlabelled = manifest.model_copy(update={"classes": [], "class_counts": []})
    manifest_path(beton).write_text(unlabelled.model_dump_json())
    with pytest.raises(DataError, match="has no classes, as it was prepared without labels"):
        read_classes(str(beton))


@pytest.mark.parametrize(
    ("classes", "expected", "words"),
    [
        ("abce", "abcd", "the first lacks 'd' and has besides 'e'; prepare it again with --source.classes t.beton,"),
        ("abc", "abcd", "v.beton has 3 classes and t.beton 4: the first lacks 'd'; prepare it again with"),
        ("abcd", "abc", "the first has besides 'd'"),
        ("abdc", "abcd", "the first calls class 2 'd' instead of 'c';"),
        ("a", "abcdefghi", "the first lacks 'b', 'c', 'd', 'e', 'f' and 3 others"),
    ],
)
def test_where_two_lists_differ(classes: str, expected: str, words: str) -> None:
    assert words in other_classes(list(classes), "v.beton", list(expected), "t.beton")


def test_a_name_is_found_however_its_accents_are_spelled() -> None:
    assert labels_of(["cafe\u0301", "dog "], ("dog", "caf\u00e9"), "x") == {"cafe\u0301": 1, "dog ": 0}
    assert "the first calls class 0 'cafe\u0301' instead of 'caf\u00e9'" in other_classes(
        ["cafe\u0301"], "v.beton", ["caf\u00e9"], "t.beton"
    )


def test_a_folder_of_shards_has_classes(tmp_path: Path) -> None:
    source = SourceSettings(kind="shapes", count=30, size=16)
    dealt = tmp_path / "dealt.beton"
    small = EncodingSettings(preset="small")
    prepare(PrepareSettings(source=source, encoding=small, output=dealt, shards=3, workers=1))
    given = SourceSettings(kind="imagefolder", path=str(tmp_path), classes=str(dealt)).classes
    assert given is not None
    assert read_classes(given) == tuple(read_manifest(dealt).classes)
