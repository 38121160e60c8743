"""Parquet shards in Hugging Face's layout: an `image` struct of bytes and path, and an integer label."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metaug_ray.data.errors import DataError
from metaug_ray.data.sources.classes import check_classes
from metaug_ray.data.sources.record import UNLABELLED, Record

_ROWS_AT_ONCE = 256


class ParquetShards:
    """Images of one or more Parquet files, in the order of their names and rows.

    Args:
        path: a file, a folder of `*.parquet`, or a glob.
        image_column: struct with a binary field `bytes`, or binary.
        label_column: integers in [0, classes); None reads the images without labels. The class names are those that
            Hugging Face's schema metadata gives, else the numbers.

    Raises:
        DataError: no such file, not Parquet, a missing column or one of another type, a missing or negative label,
            shards that disagree, and what `check_classes` finds.
    """

    def __init__(self, path: str, image_column: str = "image", label_column: str | None = "label") -> None:
        self._image_column = image_column
        self._files = _find(path)
        self._labels = []
        names: list[list[str] | None] = []
        for file in self._files:
            with _open(file) as shard:
                schema = shard.schema_arrow
                _check_image_column(file, schema, image_column)
                if label_column is None:
                    self._labels.append(np.full(shard.metadata.num_rows, UNLABELLED))
                else:
                    self._labels.append(_read_labels(file, shard, label_column))
                    names.append(_class_names(schema, label_column))
        if not len(self):
            raise DataError(f"{path}: holds no rows")
        self.classes = () if label_column is None else _classes(path, names, self._labels)

    def __len__(self) -> int:
        return sum(map(len, self._labels))

    def __iter__(self) -> Iterator[Record]:
        for file, labels in zip(self._files, self._labels, strict=True):
            row = 0
            with _open(file) as shard:
                for batch in shard.iter_batches(_ROWS_AT_ONCE, columns=[self._image_column]):
                    for image in batch.column(0).to_pylist():
                        data, path = (image, None) if isinstance(image, bytes) else _bytes_and_path(image)
                        name = f"{file} row {row}" + (f" ({path})" if path else "")
                        yield Record(name, int(labels[row]), data)
                        row += 1


def _matching_files(pattern: str) -> list[Path]:
    """Files that match a glob, sorted; `**` stands for any number of folders."""
    path = Path(pattern)
    return sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))


def _find(path: str) -> list[Path]:
    if Path(path).is_dir():
        path = str(Path(path, "*.parquet"))
    files = [Path(path)] if Path(path).exists() else _matching_files(path)
    if not files:
        raise DataError(f"{path}: matches no file; point --source.path at Parquet files or their folder")
    return files


def _open(file: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{file}: is not a readable Parquet file ({str(error).splitlines()[0]})") from error


def _check_image_column(file: Path, schema: pa.Schema, column: str) -> None:
    if column not in schema.names:
        raise DataError(
            f"{file}: has no image column {column!r}; its columns are {', '.join(schema.names)}: choose one with "
            "--source.image-column"
        )
    kind = schema.field(column).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(
            f"{file}: the image column {column!r} is {kind}, expected binary or a struct with binary 'bytes'"
        )


def _read_labels(file: Path, shard: pq.ParquetFile, column: str) -> NDArray[np.int64]:
    schema = shard.schema_arrow
    if column not in schema.names:
        raise DataError(
            f"{file}: has no label column {column!r}; its columns are {', '.join(schema.names)}: choose one with "
            "--source.label-column, or pass --source.unlabelled"
        )
    if not pa.types.is_integer(schema.field(column).type):
        raise DataError(f"{file}: the label column {column!r} is {schema.field(column).type}, expected integers")
    labels = shard.read(columns=[column]).column(0)
    if labels.null_count:
        raise DataError(f"{file}: {labels.null_count} of {len(labels)} labels are missing; pass --source.unlabelled")
    values: NDArray[np.int64] = labels.to_numpy().astype(np.int64)
    if len(values) and values.min() < 0:
        row = int(np.argmax(values < 0))
        raise DataError(
            f"{file}: row {row} has label {values[row]}, expected 0 or more; pass --source.unlabelled if it has none"
        )
    return values


def _class_names(schema: pa.Schema, column: str) -> list[str] | None:
    """Names that Hugging Face's `ClassLabel` left in the schema, if it did."""
    metadata = (schema.metadata or {}).get(b"huggingface")
    if metadata is None:
        return None
    feature = json.loads(metadata).get("info", {}).get("features", {}).get(column, {})
    names = feature.get("names")
    return [str(name) for name in names] if names else None


def _classes(path: str, names: list[list[str] | None], labels: list[NDArray[np.int64]]) -> tuple[str, ...]:
    if any(other != names[0] for other in names[1:]):
        raise DataError(f"{path}: the shards name their classes differently; prepare them apart")
    highest = max(int(values.max()) for values in labels if len(values))
    classes = check_classes(names[0] or map(str, range(highest + 1)), path)
    if highest >= len(classes):
        raise DataError(f"{path}: holds label {highest}, but its schema names only {len(classes)} classes")
    return classes


def _bytes_and_path(image: dict[str, object] | None) -> tuple[bytes, object]:
    if image is None:
        return b"", None
    data = image["bytes"]
    return (data if isinstance(data, bytes) else b""), image.get("path")
