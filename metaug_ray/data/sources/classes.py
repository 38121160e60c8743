"""The classes of labelled sources: what is asked of their names, and lists of them."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path

from metaug_ray.data.errors import DataError
from metaug_ray.data.sources.listing import refuse
from metaug_ray.data.staging import find_manifest
from metaug_ray.names import quoted


def check_classes(classes: Iterable[str], where: str) -> tuple[str, ...]:
    """The class names, if they can serve as labels.

    Raises:
        DataError: fewer than two classes, an empty name, one that is no Unicode text (as a folder's from another
            system), or two of the same name (also when they differ only in surrounding blanks or in how Unicode spells
            an accent, as folders copied between systems do).
    """
    names = tuple(classes)
    seen: dict[str, str] = {}
    for name in names:
        if not name.strip():
            raise DataError(f"{where}: a class has the empty name {name!r}; give the class a name")
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise DataError(
                f"{where}: the class name {quoted(name)} is not UTF-8; rename it (the program convmv "
                "does so for all names below a folder)"
            )
        key = _key(name)
        if key in seen:
            raise DataError(
                f"{where}: the class names {quoted(seen[key])} and {quoted(name)} are the same name; rename or merge "
                "one of them"
            )
        seen[key] = name
    if len(names) < 2:
        only = f" ({quoted(names[0])})" if names else ""
        raise DataError(
            f"{where}: found {len(names)} class{only}, expected at least 2; point at the folder or column that holds "
            "all classes, or pass --source.unlabelled if the images have none"
        )
    return names


def read_classes(place: str) -> tuple[str, ...]:
    """The class names in the order of their labels.

    Args:
        place: path or URI of a beton that has them or of its manifest, or a text file with a name on each line.

    Raises:
        DataError: it cannot be read, has no labels, or what `check_classes` finds.
    """
    place = re.sub(r"\.beton\.json(?=$|\?)", ".beton", place)
    if not place.partition("?")[0].endswith(".beton"):
        return check_classes(lines_of(Path(place)), place)
    classes = find_manifest(place).classes
    if not classes:
        raise DataError(
            f"{place}: has no classes, as it was prepared without labels; give another beton or a text file"
        )
    return check_classes(classes, place)


def labels_of(found: Iterable[str], classes: Sequence[str], where: str) -> dict[str, int]:
    """The labels of the names found: their places in a list of all classes, however Unicode spells their accents.

    Raises:
        DataError: a name is not in the list.
    """
    listed = {_key(name): label for label, name in enumerate(classes)}
    names = sorted(set(found))
    others = [name for name in names if _key(name) not in listed]
    if others:
        raise DataError(
            f"{where}: {shortened(others)} {'is' if len(others) == 1 else 'are'} not among the {len(classes)} classes "
            f"of --source.classes ({shortened(classes)}); leave such images out, or list all classes there"
        )
    return {name: listed[_key(name)] for name in names}


def lines_of(file: Path) -> list[str]:
    """The lines of a text file that are not blank.

    Raises:
        DataError: it cannot be read, or is not UTF-8.
    """
    return [line for line in _text(file).splitlines() if line.strip()]


def shortened(names: Sequence[str]) -> str:
    """Some names in a sentence: 'cat', 'dog', 'emu' and 7 others."""
    shown = ", ".join(map(quoted, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5:,} others"


def other_classes(classes: Sequence[str], beton: str, expected: Sequence[str], reference: str) -> str:
    """That a beton has not the classes of another one: where they differ and what to do, as part of a sentence."""
    mine, theirs = set(map(_key, classes)), set(map(_key, expected))
    missing = [name for name in expected if _key(name) not in mine]
    more = [name for name in classes if _key(name) not in theirs]
    if missing or more:
        parts = (f"lacks {shortened(missing)}" * bool(missing), f"has besides {shortened(more)}" * bool(more))
        difference = " and ".join(filter(None, parts))
    else:
        label = next(label for label, pair in enumerate(zip(classes, expected, strict=True)) if pair[0] != pair[1])
        difference = f"calls class {label} {quoted(classes[label])} instead of {quoted(expected[label])}"
    return (
        f"{beton} has {len(classes)} classes and {reference} {len(expected)}: the first {difference}; prepare it again "
        f"with --source.classes {reference}" + (", without the images of other classes" if more else "")
    )


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip())


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        refuse(error)
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: is not a UTF-8 text ({error}); save it as one") from error
