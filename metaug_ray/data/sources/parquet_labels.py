"""Labels of Parquet files: whole numbers, texts, truth values or categories become classes."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from metaug_ray.data.errors import DataError
from metaug_ray.data.sources.classes import check_classes, labels_of
from metaug_ray.names import quoted

# Numbers without names are classes from 0 on; ids, which leave most numbers out, are not.
_MOST_CLASSES, _LEAST_USED = 1000, 0.1


@dataclass(frozen=True)
class ShardLabels:
    """Labels of a file's rows.

    Attributes:
        numbers: [N], 0 or more.
        names: texts by number, where the labels have some.
        is_ordered: the names are all classes in their order, not only those that occur.
    """

    numbers: NDArray[np.int64]
    names: tuple[str, ...] | None = None
    is_ordered: bool = False

    def by_name(self) -> dict[int, str]:
        """The numbers that occur, and their names; a number without one is its own."""
        used = [int(number) for number in np.unique(self.numbers)]
        return {number: str(number) if self.names is None else self.names[number] for number in used}


def read_labels(file: Path, shard: pq.ParquetFile, column: str) -> ShardLabels:
    """The labels of a file: whole numbers (as floats too), text, truth values or categories of those.

    Raises:
        DataError: a label that is missing or negative, a column of another type, or a number without a name where
            Hugging Face's schema gives names.
    """
    labels = shard.read(columns=[column]).column(0).combine_chunks()
    if pa.types.is_dictionary(labels.type):
        labels = labels.cast(labels.type.value_type)
    if pa.types.is_floating(labels.type):
        # Whole numbers with gaps become floats in pandas.
        labels = pc.if_else(pc.is_nan(labels), None, labels)
    if labels.null_count:
        count = "all" if labels.null_count == len(labels) else f"{labels.null_count:,} of"
        raise DataError(
            f"{file}: {count} {len(labels):,} labels of the column {column!r} are missing; choose another with "
            "--source.label-column, or pass --source.unlabelled"
        )
    try:
        found = _in_numbers(labels)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise DataError(
            f"{file}: the label column {column!r} is {labels.type}, expected whole numbers, text or truth values "
            f"({str(error).splitlines()[0]}); choose another with --source.label-column, or pass --source.unlabelled"
        ) from error
    if len(found.numbers) and found.numbers.min() < 0:
        row = int(np.argmax(found.numbers < 0))
        raise DataError(
            f"{file}: row {row} has label {found.numbers[row]}, expected 0 or more; pass --source.unlabelled if it has "
            "none"
        )
    names = _class_names(shard.schema_arrow, column)
    if found.names is not None or names is None:
        return found
    if len(found.numbers) and found.numbers.max() >= len(names):
        raise DataError(
            f"{file}: holds label {found.numbers.max()}, but its schema names only {len(names)} classes; write the "
            "file again, or without names"
        )
    return ShardLabels(found.numbers, names, is_ordered=True)


def unite(
    path: str, shards: Sequence[ShardLabels], listed: Sequence[str] | None
) -> tuple[tuple[str, ...], list[NDArray[np.int64]]]:
    """The classes of all files, and each file's labels [N] by them.

    Args:
        path: of the files, for messages.
        shards: one at least with rows.
        listed: all classes in the order of their labels, if the user says them. Numbers without names are found there
            as such if all of the list are numbers, else they count its lines from 0 on.

    Raises:
        DataError: files that disagree, numbers that cannot be classes, or labels that are not among those listed.
    """
    shards_with_rows = [shard for shard in shards if len(shard.numbers)]
    kinds = {(shard.names is None, shard.is_ordered and shard.names) for shard in shards_with_rows}
    if len(kinds) > 1:
        raise DataError(f"{path}: the shards name their classes differently; prepare them apart")
    first = shards_with_rows[0]
    is_counted = first.names is None and not (listed and all(map(str.isdecimal, listed)))
    if is_counted:
        classes = _counted(path, shards_with_rows, listed)
        return classes, [shard.numbers for shard in shards]
    if listed is not None:
        classes = tuple(listed)
    elif first.is_ordered and first.names:
        classes = check_classes(first.names, path)
    else:
        classes = check_classes(_texts(path, shards), path)
    labels = labels_of((name for shard in shards for name in shard.by_name().values()), classes, path)
    return classes, [_renumbered(shard, labels) for shard in shards]


def _counted(path: str, shards: Sequence[ShardLabels], listed: Sequence[str] | None) -> tuple[str, ...]:
    """The classes of numbers without names."""
    highest = max(int(shard.numbers.max()) for shard in shards)
    if listed is not None:
        if highest >= len(listed):
            raise DataError(
                f"{path}: holds label {highest}, but --source.classes lists only {len(listed)} classes, from 0 on; "
                "list all of them, in the order of their labels"
            )
        return tuple(listed)
    used = len(set().union(*(shard.by_name() for shard in shards)))
    if highest >= _MOST_CLASSES and used < _LEAST_USED * highest:
        raise DataError(
            f"{path}: its labels are {used:,} different numbers up to {highest:,}, which are ids and no classes; list "
            "the numbers that are classes in a text file, one on each line, and give it by --source.classes"
        )
    return check_classes(map(str, range(highest + 1)), path)


def _texts(path: str, shards: Sequence[ShardLabels]) -> list[str]:
    texts = sorted({name for shard in shards for name in shard.names or ()})
    rows = sum(len(shard.numbers) for shard in shards)
    if len(texts) > max(_MOST_CLASSES, rows / 2):
        raise DataError(
            f"{path}: its labels are {len(texts):,} different texts in {rows:,} rows, such as {quoted(texts[0])}, "
            "which are no classes; choose another column with --source.label-column, or list the classes by "
            "--source.classes"
        )
    return texts


def _renumbered(shard: ShardLabels, label: dict[str, int]) -> NDArray[np.int64]:
    numbers, positions = np.unique(shard.numbers, return_inverse=True)
    names = shard.by_name()
    return np.array([label[names[int(number)]] for number in numbers], np.int64)[positions]


def _class_names(schema: pa.Schema, column: str) -> tuple[str, ...] | None:
    """Names that Hugging Face's `ClassLabel` left in the schema, if it did."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        return tuple(map(str, feature["names"])) or None
    # Other features have no names, and other tools write what they like.
    except (KeyError, ValueError, TypeError):
        return None


def _in_numbers(labels: pa.Array) -> ShardLabels:
    kind = labels.type
    if pa.types.is_boolean(kind):
        return ShardLabels(labels.cast(pa.int64()).to_numpy(), ("false", "true"))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return ShardLabels(labels.cast(pa.int64()).to_numpy())
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (is_text or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise pa.ArrowInvalid("it is none of these")
    coded = labels.cast(pa.large_string()).dictionary_encode()
    return ShardLabels(coded.indices.to_numpy().astype(np.int64), tuple(coded.dictionary.to_pylist()))
