"""What all settings share: their base class, the types of their values, and an error's words."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError


class Settings(BaseModel):
    """Base of all settings: nothing unknown, nothing changed afterwards."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, validate_default=True
    )


Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""Pattern of the names of runs and registered encoders, which become folders and parts of URIs."""


def absolute(path: Path) -> Path:
    """A path from the root on; ~ is the home folder."""
    with suppress(RuntimeError):  # ~name, where nobody has that name: a file may be called so
        path = path.expanduser()
    return path.absolute()


def _located(place: str) -> str:
    scheme, separator, rest = place.partition("://")
    if not separator:
        return str(absolute(Path(place)))
    # A database file's URI has a path after its third slash; other URIs mean what they say.
    if scheme == "sqlite" and rest.startswith("/"):
        return f"sqlite:///{absolute(Path(rest[1:]))}"
    return place


# Relative to where the command was given: workers have other working directories.
LocalPath = Annotated[Path, AfterValidator(absolute)]
"""A path of this machine, made absolute; ~ is the home folder."""
Location = Annotated[str, Field(min_length=1), AfterValidator(_located)]
"""A path, made absolute as a `LocalPath`, or a URI, which stays as it is (in sqlite:///path the path is made absolute
too)."""


def setting_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All settings of a model by dotted name, without the groups that they stand in."""
    for name, field in model.model_fields.items():
        parts = [part for part in (field.annotation, *get_args(field.annotation)) if isinstance(part, type)]
        groups = [part for part in parts if issubclass(part, BaseModel)]
        for group in groups:
            yield from setting_names(group, f"{prefix}{name}.")
        if not groups:
            yield prefix + name


_NAMED: Final = re.compile(r"[\w.]+: ")


def explain(error: ValidationError, named: Callable[[str], str] = str) -> str:
    """A validation error as one line per field: the field, the value and what is allowed.

    Args:
        error: what pydantic raised.
        named: what a user calls a field, given by its dotted name.
    """
    lines = []
    for problem in error.errors():
        field = named(".".join(map(str, problem["loc"])))
        # Of a tuple whose every entry is wrong pydantic says besides that it has none.
        if problem["type"] == "too_short" and any(other["loc"][:-1] == problem["loc"] for other in error.errors()):
            continue
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            message = "is missing, and has no default"
        if problem["type"] == "string_unicode":
            message = "is not UTF-8; rename it, or make a link to it that is"
        value = "" if problem["type"] in ("missing", "value_error") else f" (got {problem['input']!r})"
        # A model's own checks begin with the field they are about, a field's own do not.
        separator = "." if problem["type"] == "value_error" and _NAMED.match(message) else ": "
        lines.append(f"{field}{separator}{message}{value}" if field else message)
    return "\n".join(lines)
