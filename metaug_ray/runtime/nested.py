"""Nested dictionaries, such as states, taken apart by their leaves."""

from collections.abc import Callable
from typing import Any


def leaves(nested: dict[str, Any]) -> dict[tuple[str, ...], Any]:
    """What is no dictionary, by the names that lead to it."""
    found: dict[tuple[str, ...], Any] = {}
    for name, value in nested.items():
        below = {(): value} if not isinstance(value, dict) else leaves(value)
        found |= {(name, *path): leaf for path, leaf in below.items()}
    return found


def picked(nested: dict[str, Any], wanted: Callable[[Any], bool]) -> dict[str, Any]:
    """A copy of the dictionaries with those leaves alone that are wanted, the same objects."""
    chosen: dict[str, Any] = {}
    for path, leaf in leaves(nested).items():
        if wanted(leaf):
            put(chosen, path, leaf)
    return chosen


def put(nested: dict[str, Any], path: tuple[str, ...], leaf: Any) -> None:
    """Set a leaf by the names that lead to it."""
    *above, name = path
    for step in above:
        nested = nested.setdefault(step, {})
    nested[name] = leaf
