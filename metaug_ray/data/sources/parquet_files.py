"""The Parquet files that a path, a folder or a glob stands for."""

import logging
import re
from collections import Counter
from pathlib import Path
from typing import Final

from metaug_ray.data.errors import DataError
from metaug_ray.data.sources.classes import shortened
from metaug_ray.data.sources.listing import BELOW, NO_PARQUET, Listing

_log = logging.getLogger(__name__)
_SPLIT: Final = re.compile(r"(train|training|validation|valid|val|dev|test)(?=[-_.])")
_PART: Final = re.compile(r"(.*)-\d+-of-0*(\d+)\b")


def find_shards(path: str, listing: Listing) -> list[Path]:
    """Parquet files in the order of their names.

    Args:
        path: a file, a folder of Parquet files, or a glob. What exists is never taken for a glob, whatever characters
            its name has.
        listing: is told what was passed over.

    Raises:
        DataError: nothing is there, or a folder holds several splits.
    """
    folder = Path(path)
    if folder.is_dir():
        files = _in_folder(folder, listing)
        _check_one_split(folder, files)
    elif folder.exists():
        files = [folder]
    else:
        files = [file for found in matching(path) for file in _files_of(found, listing)]
        if not files:
            raise DataError(f"{path}: matches no file; point --source.path at Parquet files or their folder")
    _warn_of_missing_parts(files)
    return files


def matching(pattern: str) -> list[Path]:
    """What matches a glob and is not hidden, sorted; `**` stands for any number of folders."""
    path = Path(pattern)
    base = Path(path.anchor)
    parts = list(path.relative_to(base).parts)
    # A folder may be called data[1].
    while len(parts) > 1 and (base / parts[0]).is_dir():
        base /= parts.pop(0)
    hidden_too = parts[-1].startswith(".")
    return sorted(file for file in base.glob(str(Path(*parts))) if hidden_too or not file.name.startswith("."))


def _files_of(found: Path, listing: Listing) -> list[Path]:
    return _in_folder(found, listing) if found.is_dir() else [found]


def _in_folder(folder: Path, listing: Listing) -> list[Path]:
    files = []
    below = []
    for entry in listing.entries(folder):
        if entry.suffix.lower() == ".parquet":
            # Spark writes a folder of this name.
            files += _files_of(entry, listing)
        elif entry.is_dir():
            below += [file for file in sorted(entry.rglob("*.parquet")) if not file.name.startswith(".")]
        else:
            listing.pass_over(NO_PARQUET, str(entry))
    if not files:
        there = f"{below[0].parent}, which has some" if below else "some, or choose another --source.kind"
        raise DataError(f"{folder}: holds no Parquet files{listing.told()}; point --source.path at {there}")
    for file in below:
        listing.pass_over(BELOW, str(file))
    return files


def _check_one_split(folder: Path, files: list[Path]) -> None:
    splits = {found[0]: None for file in files if (found := _SPLIT.match(file.name))}
    if len(splits) > 1:
        raise DataError(
            f"{folder}: its files belong to the splits {shortened(list(splits))}; choose one by a glob in quotes, such "
            f"as '{folder / next(iter(splits))}*.parquet', or take all of them by '{folder}/*.parquet'"
        )


def _warn_of_missing_parts(files: list[Path]) -> None:
    parts = [found for file in files if (found := _PART.match(str(file)))]
    for (name, total), count in Counter((part[1], int(part[2])) for part in parts).items():
        if count < total and len(files) > 1:
            _log.warning("%s: %d of its %d Parquet files are here", name, count, total)
