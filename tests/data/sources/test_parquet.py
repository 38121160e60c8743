import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from metaug_ray.data.errors import DataError
from metaug_ray.data.reading import read_rgb
from metaug_ray.data.sources.parquet import ParquetShards
from metaug_ray.data.sources.record import UNLABELLED
from tests.data.images import picture

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(seed)).save(file, "PNG")
    return file.getvalue()


def table(labels: list[int | None], names: list[str] | None = None, label_column: str = "label") -> pa.Table:
    images = [{"bytes": png(row), "path": f"{row}.png"} for row in range(len(labels))]
    columns = {"image": pa.array(images, IMAGE), label_column: pa.array(labels, pa.int64())}
    made = pa.table(columns)
    if names is None:
        return made
    features = {"info": {"features": {label_column: {"names": names, "_type": "ClassLabel"}}}}
    return made.replace_schema_metadata({b"huggingface": json.dumps(features).encode()})


def write(path: Path, made: pa.Table) -> str:
    pq.write_table(made, path, row_group_size=2)
    return str(path)


def test_rows_labels_and_names(tmp_path: Path) -> None:
    source = ParquetShards(write(tmp_path / "a.parquet", table([1, 0, 2, 1, 0], ["cat", "dog", "emu"])))
    assert source.classes == ("cat", "dog", "emu")
    assert len(source) == 5
    records = list(source)
    assert [record.label for record in records] == source.labels.tolist() == [1, 0, 2, 1, 0]
    assert records[3].name == f"{tmp_path}/a.parquet row 3 (3.png)"
    assert all(np.array_equal(read_rgb(record), picture(row)) for row, record in enumerate(records))
    assert [record.label for record in source] == [1, 0, 2, 1, 0], "a source is read more than once"


def test_classes_without_names_are_numbers(tmp_path: Path) -> None:
    assert ParquetShards(write(tmp_path / "a.parquet", table([0, 2]))).classes == ("0", "1", "2")


@pytest.mark.parametrize("pattern", ["", "*.parquet", "part-?.parquet"])
def test_a_folder_and_a_glob_are_read_in_order_of_name(tmp_path: Path, pattern: str) -> None:
    write(tmp_path / "part-1.parquet", table([1, 1]))
    write(tmp_path / "part-0.parquet", table([0, 0, 0]))
    source = ParquetShards(str(tmp_path / pattern))
    assert [record.label for record in source] == [0, 0, 0, 1, 1]


def test_plain_binary_images_and_a_missing_one(tmp_path: Path) -> None:
    made = pa.table({"img": pa.array([png(0), None]), "label": [0, 1]})
    records = list(ParquetShards(write(tmp_path / "a.parquet", made), image_column="img"))
    assert np.array_equal(read_rgb(records[0]), picture(0))
    with pytest.raises(ValueError, match="zero bytes"):
        read_rgb(records[1])


def test_label_column_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", table([0, 1], label_column="fine_label"))
    with pytest.raises(DataError, match=r"no label column 'label'; its columns are image, fine_label: choose one with"):
        ParquetShards(path)
    assert ParquetShards(path, label_column="fine_label").classes == ("0", "1")
    unlabelled = ParquetShards(path, label_column=None)
    assert unlabelled.classes == ()
    assert [record.label for record in unlabelled] == [UNLABELLED] * 2


def test_image_column_missing_or_of_another_type(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", table([0, 1]))
    with pytest.raises(DataError, match="no image column 'img'; its columns are image, label"):
        ParquetShards(path, image_column="img")
    with pytest.raises(DataError, match="the image column 'label' is int64, expected binary"):
        ParquetShards(path, image_column="label")


@pytest.mark.parametrize(
    ("labels", "names", "message"),
    [
        ([0, None, 1], None, "1 of 3 labels of the column 'label' are missing"),
        ([0, 1, -1], None, "row 2 has label -1"),
        ([0, 1, 2], ["cat", "dog"], "holds label 2, but its schema names only 2 classes"),
        ([0, 1], ["cat", "cat"], "'cat' and 'cat' are the same name"),
        ([0, 0], None, r"found 1 class \('0'\), expected at least 2"),
        ([], None, "holds no rows"),
    ],
)
def test_labels_that_cannot_serve(
    tmp_path: Path, labels: list[int | None], names: list[str] | None, message: str
) -> None:
    path = write(tmp_path / "a.parquet", table(labels, names))
    with pytest.raises(DataError, match=message):
        ParquetShards(path)


def test_shards_that_name_classes_differently(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", table([0, 1], ["cat", "dog"]))
    write(tmp_path / "b.parquet", table([0, 1], ["dog", "cat"]))
    with pytest.raises(DataError, match="name their classes differently"):
        ParquetShards(str(tmp_path))


def test_files_that_are_not_parquet_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("hello")
    with pytest.raises(DataError, match=r"a\.parquet: is not a readable Parquet file"):
        ParquetShards(str(tmp_path / "a.parquet"))
    with pytest.raises(DataError, match="matches no file"):
        ParquetShards(str(tmp_path / "b*.parquet"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no Parquet files"):
        ParquetShards(str(tmp_path / "empty"))


def test_paths_in_the_place_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.png").write_bytes(png(0))
    (tmp_path / "1.png").write_bytes(png(1))
    paths = ["images/0.png", str(tmp_path / "1.png"), "gone.png"]
    for name, images in {
        "structs": pa.array([{"bytes": None, "path": path} for path in paths], IMAGE),
        "texts": pa.array(paths),
    }.items():
        source = ParquetShards(write(tmp_path / f"{name}.parquet", pa.table({"image": images, "label": [0, 1, 1]})))
        records = list(source)
        assert all(np.array_equal(read_rgb(record), picture(row)) for row, record in enumerate(records[:2]))
        assert records[2].name == f"{tmp_path}/{name}.parquet row 2 (gone.png)"
        with pytest.raises(FileNotFoundError):
            read_rgb(records[2])


def test_columns_of_any_name(tmp_path: Path) -> None:
    images = pa.array([png(0), png(1)])
    made = pa.table({"img": pa.array([{"bytes": b"", "path": ""}] * 2, IMAGE), "img.bytes": images, "$a[0]": [1, 0]})
    source = ParquetShards(write(tmp_path / "a.parquet", made), "img.bytes", "$a[0]")
    assert [record.label for record in source] == [1, 0]
    assert all(np.array_equal(read_rgb(record), picture(row)) for row, record in enumerate(source))


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    made = pa.Table.from_arrays([pa.array([png(0)]), pa.array([0]), pa.array([1])], ["image", "label", "label"])
    with pytest.raises(DataError, match="has 2 columns called 'label'"):
        ParquetShards(write(tmp_path / "a.parquet", made))


def test_a_damaged_page(tmp_path: Path) -> None:
    path = Path(write(tmp_path / "a.parquet", table([0, 1] * 4)))
    data = bytearray(path.read_bytes())
    start = data.index(b"\x89PNG") - 60
    data[start : start + 200] = bytes(200)
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"a\.parquet: is not a readable Parquet file"):
        list(ParquetShards(str(path)))


def test_a_pointer_in_the_place_of_a_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 1\n")
    with pytest.raises(DataError, match="it is a pointer of Git LFS; fetch the files with `git lfs pull`"):
        ParquetShards(str(tmp_path))
