import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metaug_ray.data.errors import DataError
from metaug_ray.data.sources.parquet import ParquetShards


def write(path: Path, labels: list[object], kind: pa.DataType, names: list[str] | None = None) -> str:
    """A file whose images are never read."""
    table = pa.table({"image": pa.array([b"x"] * len(labels), pa.binary()), "label": pa.array(labels, kind)})
    if names is not None:
        features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({b"huggingface": json.dumps(features).encode()})
    pq.write_table(table, path)
    return str(path)


def read(path: object, classes: tuple[str, ...] | None = None) -> tuple[tuple[str, ...], list[int]]:
    source = ParquetShards(str(path), classes=classes)
    return source.classes, [record.label for record in source]


@pytest.mark.parametrize(
    ("labels", "kind", "classes", "expected"),
    [
        (["dog", "cat", "dog"], pa.string(), ("cat", "dog"), [1, 0, 1]),
        (["dog", "cat", "dog"], pa.large_string(), ("cat", "dog"), [1, 0, 1]),
        (["dog", "cat", "dog"], pa.string_view(), ("cat", "dog"), [1, 0, 1]),
        ([b"dog", b"cat", b"dog"], pa.binary(), ("cat", "dog"), [1, 0, 1]),
        (["dog", "cat", "dog"], pa.dictionary(pa.int8(), pa.string()), ("cat", "dog"), [1, 0, 1]),
        ([2, 0, 1], pa.dictionary(pa.int8(), pa.int64()), ("0", "1", "2"), [2, 0, 1]),
        ([True, False], pa.bool_(), ("false", "true"), [1, 0]),
        ([True, True], pa.bool_(), ("false", "true"), [1, 1]),
        ([2, 0], pa.uint8(), ("0", "1", "2"), [2, 0]),
        ([1.0, 0.0], pa.float32(), ("0", "1"), [1, 0]),
        (["犬", "猫"], pa.string(), ("犬", "猫"), [0, 1]),
    ],
)
def test_labels_of_every_plain_kind(
    tmp_path: Path, labels: list[object], kind: pa.DataType, classes: tuple[str, ...], expected: list[int]
) -> None:
    assert read(write(tmp_path / "a.parquet", labels, kind)) == (classes, expected)


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        ([None, None], pa.null(), "all 2 labels of the column 'label' are missing; .* pass --source.unlabelled"),
        ([0.0, float("nan")], pa.float64(), "1 of 2 labels of the column 'label' are missing"),
        ([0.5, 1.0], pa.float64(), "the label column 'label' is double, expected whole numbers, text or truth values"),
        ([[0, 1], [1]], pa.list_(pa.int64()), "the label column 'label' is list<.*>, expected whole numbers"),
        ([b"caf\xe9", b"dog"], pa.binary(), "the label column 'label' is binary, expected whole numbers"),
        (["cat", ""], pa.string(), "a class has the empty name ''"),
        ([0, 5, 1 << 40], pa.int64(), "3 different numbers up to 1,099,511,627,776, which are ids and no classes"),
        ([0, 2**64 - 1], pa.uint64(), "the label column 'label' is uint64, expected whole numbers"),
    ],
)
def test_labels_that_are_no_classes(tmp_path: Path, labels: list[object], kind: pa.DataType, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "a.parquet", labels, kind))


def test_files_with_different_texts_share_their_classes(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ["dog", "emu"], pa.string())
    write(tmp_path / "b.parquet", ["cat", "dog"], pa.dictionary(pa.int8(), pa.string()))
    write(tmp_path / "c.parquet", [], pa.int64())
    assert read(tmp_path) == (("cat", "dog", "emu"), [1, 2, 0, 1])


def test_numbers_in_one_file_and_texts_in_another(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", ["dog", "emu"], pa.string())
    write(tmp_path / "b.parquet", [0, 1], pa.int64())
    with pytest.raises(DataError, match="the shards name their classes differently"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("labels", "kind", "names", "classes", "expected"),
    [
        ([0, 1], pa.int64(), None, ("cat", "dog", "emu"), [0, 1]),
        (["emu", "cat"], pa.string(), None, ("cat", "dog", "emu"), [2, 0]),
        ([0, 1], pa.int64(), ["cat", "emu"], ("cat", "dog", "emu"), [0, 2]),
        ([0, 1], pa.int64(), None, ("0", "1", "2"), [0, 1]),
        ([200, 7], pa.int64(), None, ("7", "30", "200"), [2, 0]),
        ([1 << 40, 7], pa.int64(), None, ("7", str(1 << 40)), [1, 0]),
        (["cat", "cat"], pa.string(), None, ("cat", "dog"), [0, 0]),
    ],
)
def test_a_list_says_all_classes(
    tmp_path: Path,
    labels: list[object],
    kind: pa.DataType,
    names: list[str] | None,
    classes: tuple[str, ...],
    expected: list[int],
) -> None:
    assert read(write(tmp_path / "a.parquet", labels, kind, names), classes) == (classes, expected)


@pytest.mark.parametrize(
    ("labels", "kind", "message"),
    [
        (["cat", "fox"], pa.string(), r"'fox' is not among the 2 classes of --source\.classes \('cat', 'dog'\)"),
        ([0, 2], pa.int64(), r"holds label 2, but --source\.classes lists only 2 classes, from 0 on"),
    ],
)
def test_labels_that_are_not_listed(tmp_path: Path, labels: list[object], kind: pa.DataType, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(write(tmp_path / "a.parquet", labels, kind), ("cat", "dog"))


@pytest.mark.parametrize("metadata", [b"no JSON", b"[]", b'{"info": {"features": {"label": {"dtype": "int64"}}}}'])
def test_metadata_without_names(tmp_path: Path, metadata: bytes) -> None:
    path = write(tmp_path / "a.parquet", [0, 1], pa.int64())
    pq.write_table(pq.read_table(path).replace_schema_metadata({b"huggingface": metadata}), path)
    assert read(path) == (("0", "1"), [0, 1])


def test_captions_are_no_classes(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", [f"a photo of animal {row}" for row in range(1001)], pa.string())
    with pytest.raises(DataError, match=r"1,001 different texts in 1,001 rows, such as 'a photo .* are no classes"):
        read(path)
    many = write(tmp_path / "b.parquet", [f"class {row % 1001}" for row in range(2100)], pa.string())
    assert len(read(many)[0]) == 1001
