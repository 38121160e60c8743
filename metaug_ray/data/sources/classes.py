"""Checks that every labelled source makes of its classes."""

import unicodedata
from collections.abc import Iterable

from metaug_ray.data.errors import DataError


def check_classes(classes: Iterable[str], where: str) -> tuple[str, ...]:
    """The class names, if they can serve as labels.

    Raises:
        DataError: fewer than two classes, or two of the same name (also when they differ only in surrounding blanks
            or in how Unicode spells an accent, as folders copied between systems do).
    """
    names = tuple(classes)
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", name.strip())
        if key in seen:
            raise DataError(
                f"{where}: the class names {seen[key]!r} and {name!r} are the same name; rename or merge one of them"
            )
        seen[key] = name
    if len(names) < 2:
        only = f" ({names[0]!r})" if names else ""
        raise DataError(
            f"{where}: found {len(names)} class{only}, expected at least 2; point at the folder or column that holds "
            "all classes, or pass --source.unlabelled if the images have none"
        )
    return names
