"""Names that users chose, as text of figures: whatever they hold, they are shown, and told apart."""

import logging
import unicodedata
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from functools import lru_cache
from typing import Final, NamedTuple

import matplotlib
from matplotlib import font_manager

from metaug_ray.runtime.words import first_line

_FAMILY: Final = "DejaVu Sans"
_NO_TEXT: Final = ("Last Resort", "STIX", "DejaVu", "cm")
"""Beginnings of the names of matplotlib's own fonts that have no letters more than `_FAMILY`, or boxes for all."""
_LONGEST: Final = 32
_log = logging.getLogger(__name__)


class Labels(NamedTuple):
    """Texts as a figure shows them, and the families of fonts that have all their letters."""

    texts: tuple[str, ...]
    families: tuple[str, ...]


@lru_cache(maxsize=8)
def labels(names: tuple[str, ...]) -> Labels:
    """What a figure shows for names.

    Long ones are shortened, and what no installed font has is shown as a question mark; where names could then not be
    told apart, each gets its number.
    """
    letters = {letter for name in names for letter in name if letter.isprintable()}
    families, missing = _families(letters)
    texts = [_shown(name, missing) for name in names]
    unclear = len(set(texts)) < len(texts) or any(letter in missing for name in names for letter in name)
    if missing:
        numbered = ", ".join(f"#{number} {' '.join(name.split())}" for number, name in enumerate(names[:20]))
        _log.warning("no font of this machine has all letters of these names; figures number them: %s", numbered)
    if unclear and len(texts) > 1:
        texts = [f"#{number} {text}" for number, text in enumerate(texts)]
    return Labels(tuple(texts), families)


@contextmanager
def shown(names: Sequence[str]) -> Iterator[Sequence[str]]:
    """The texts of names, to be drawn inside of this context: nothing in them is taken for mathematics."""
    texts, families = labels(tuple(names))
    with matplotlib.rc_context({"text.parse_math": False, "font.family": list(families)}):
        yield texts


@contextmanager
def drawing(what: str) -> Iterator[None]:
    """A figure that fails to be drawn in this context is told of, and takes nothing else with it."""
    try:
        yield
    except Exception as error:  # whatever matplotlib, the disk or a decoder raises
        _log.warning("%s cannot be drawn (%s); the results do not depend on it", what, first_line(error))


def _shown(name: str, missing: Set[str]) -> str:
    # No control characters, and no letters that turn the direction or have no width.
    plain = "".join(letter if letter.isprintable() else " " for letter in unicodedata.normalize("NFC", name))
    plain = " ".join("".join("?" if letter in missing else letter for letter in plain).split())
    if len(plain) > _LONGEST:
        plain = f"{plain[: _LONGEST - 12]}…{plain[-11:]}"
    # Matplotlib leaves what begins with an underscore out of legends.
    return f" {plain}" if plain.startswith("_") else plain or "?"


def _families(letters: Set[str]) -> tuple[tuple[str, ...], Set[str]]:
    """The fonts that a text needs, and the letters that none has."""
    missing = {letter for letter in letters if ord(letter) not in _codes(font_manager.findfont(_FAMILY))}
    families = [_FAMILY]
    for entry in font_manager.fontManager.ttflist if missing else ():
        if entry.name.startswith(_NO_TEXT) or entry.name in families:
            continue
        try:
            found = {letter for letter in missing if ord(letter) in _codes(entry.fname)}
        except (OSError, RuntimeError):  # a broken file is no font
            continue
        if found:
            families.append(entry.name)
            missing -= found
    return tuple(families), missing


def _codes(file: str) -> Set[int]:
    return font_manager.get_font(file).get_charmap().keys()
