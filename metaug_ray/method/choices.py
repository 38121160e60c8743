"""The check of a setting that is one of a few names."""

from typing import Any, get_args


def check_choice(what: str, value: str, names: Any) -> None:
    """Raise a ValueError that lists the names unless `value` is one of the `Literal` type `names`."""
    if value not in get_args(names):
        raise ValueError(f"unknown {what} {value!r}: choose from {', '.join(get_args(names))}")
