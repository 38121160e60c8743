"""Parquet shards in Hugging Face's layout: an `image` struct of bytes and path, and a label."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metaug_ray.data.errors import DataError
from metaug_ray.data.reading import what_else
from metaug_ray.data.sources.listing import Listing
from metaug_ray.data.sources.parquet_files import find_shards
from metaug_ray.data.sources.parquet_labels import ShardLabels, read_labels, unite
from metaug_ray.data.sources.record import UNLABELLED, Record
from metaug_ray.names import quoted

_ROWS_AT_ONCE = 256
_SERVE = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
    pa.types.is_string,
    pa.types.is_large_string,
)


class ParquetShards:
    """Images of one or more Parquet files, in the order of their names and rows.

    Args:
        path: a file, a folder of `*.parquet`, or a glob.
        image_column: the bytes of image files, their paths (from the Parquet file's folder on), or a struct of `bytes`
            and `path`.
        label_column: whole numbers, text or truth values; None reads the images without labels. The class names are
            those that Hugging Face's schema metadata gives, else the texts in alphabetical order, or the numbers from
            0 to the greatest.
        classes: names of all classes in the order of their labels, of which some may have no images.

    Raises:
        DataError: no such file, not Parquet, a missing column or one of another type, a missing or negative label,
            shards that disagree, labels that are not in `classes`, and what `check_classes` finds.
    """

    def __init__(
        self,
        path: str,
        image_column: str = "image",
        label_column: str | None = "label",
        classes: Sequence[str] | None = None,
    ) -> None:
        self._image_column = image_column
        listing = Listing()
        self._files = find_shards(path, listing)
        self.passed_over = listing.passed_over
        labels = [_read(file, image_column, label_column) for file in self._files]
        if not sum(len(shard.numbers) for shard in labels):
            raise DataError(f"{path}: holds no rows; point --source.path at files that have some")
        self.classes: tuple[str, ...] = ()
        if label_column is None:
            self._labels = [shard.numbers for shard in labels]
        else:
            self.classes, self._labels = unite(path, labels, classes)

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.concatenate(self._labels).astype(np.int64)

    def __len__(self) -> int:
        return sum(map(len, self._labels))

    def __iter__(self) -> Iterator[Record]:
        for file, labels in zip(self._files, self._labels, strict=True):
            for row, (label, image) in enumerate(zip(labels, _images(file, self._image_column), strict=True)):
                data, path = _bytes_and_path(image)
                name = f"{file} row {row}" + (f" ({path})" if path else "")
                yield Record(name, int(label), data or (_beside(file, path, name) if path else b""))


def _read(file: Path, image_column: str, label_column: str | None) -> ShardLabels:
    """The labels of a file whose columns were found to serve."""
    with _opened(file) as shard:
        _check_image_column(file, shard.schema_arrow, image_column)
        if label_column is None:
            return ShardLabels(np.broadcast_to(np.int64(UNLABELLED), shard.metadata.num_rows))
        _check_there(file, shard.schema_arrow, label_column, "label", ", or pass --source.unlabelled")
        return read_labels(file, shard, label_column)


def _images(file: Path, column: str) -> Iterator[object]:
    with _opened(file) as shard:
        for batch in shard.iter_batches(_ROWS_AT_ONCE, columns=[column]):
            yield from batch.column(column).to_pylist()


@contextmanager
def _opened(file: Path) -> Iterator[pq.ParquetFile]:
    try:
        # pyarrow opens by itself what is called by valid Unicode alone.
        with file.open("rb") as content, pq.ParquetFile(content) as shard:
            yield shard
    # pyarrow raises OSError for broken pages too.
    except (OSError, pa.ArrowInvalid, UnicodeDecodeError) as error:
        what = what_else(_beginning(file), str(error).splitlines()[0].rstrip("."))
        raise DataError(f"{file}: is not a readable Parquet file ({what}); copy or write it again") from error


def _beginning(file: Path) -> bytes:
    with suppress(OSError), file.open("rb") as opened:
        return opened.read(100)
    return b""


def _check_there(file: Path, schema: pa.Schema, column: str, what: str, otherwise: str = "") -> None:
    count = schema.names.count(column)
    if count != 1:
        has = f"has {count} columns called {column!r}" if count else f"has no {what} column {column!r}"
        raise DataError(
            f"{file}: {has}; its columns are {', '.join(schema.names)}: choose one with "
            f"--source.{what}-column{otherwise}"
        )


def _check_image_column(file: Path, schema: pa.Schema, column: str) -> None:
    _check_there(file, schema, column, "image")
    kind = schema.field(column).type
    if pa.types.is_struct(kind):
        kinds = [kind.field(name).type for name in ("bytes", "path") if kind.get_field_index(name) >= 0]
    else:
        kinds = [kind]
    if not any(serves(part) for part in kinds for serves in _SERVE):
        raise DataError(
            f"{file}: the image column {column!r} is {kind}, expected binary (image files), text (their paths) or a "
            "struct with binary 'bytes'; choose another with --source.image-column"
        )


def _beside(file: Path, path: str, name: str) -> Path:
    """The image file that a row names.

    Raises:
        DataError: it does not lie beside the Parquet file or below, as whoever wrote that may not choose what is read.
    """
    # Without a look at links, which are the user's own.
    folder = file.parent.absolute()
    image = Path(os.path.normpath(folder / path))
    if not image.is_relative_to(folder):
        raise DataError(
            f"{quoted(name)}: the image's path leads out of {folder}; put the images, or a link to their folder, "
            "beside the Parquet file, and write paths from there on"
        )
    return image


def _bytes_and_path(image: object) -> tuple[bytes, str]:
    if isinstance(image, dict):
        data, path = image.get("bytes"), image.get("path")
        return (data if isinstance(data, bytes) else b""), (path if isinstance(path, str) else "")
    return (image, "") if isinstance(image, bytes) else (b"", image if isinstance(image, str) else "")
