"""What all settings share: their base class, the types of their values, and an error's words."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from metaug_ray.addresses import holds_secret, masked


class Settings(BaseModel):
    """Base of all settings: nothing unknown, nothing changed afterwards."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
        # A traceback would show an address with the password for which it was refused.
        hide_input_in_errors=True,
    )


Probability = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]

RUN_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
"""Pattern of the names of runs and registered encoders, which become folders and parts of URIs."""
NAME_RULE = "letters, digits, '.', '_' and '-' only, the first a letter or a digit"
"""The same, in words."""


def absolute(path: Path) -> Path:
    """A path from the root on; ~ is the home folder."""
    with suppress(RuntimeError):  # ~name, where nobody has that name: a file may be called so
        path = path.expanduser()
    return path.absolute()


def _located(place: str) -> str:
    if holds_secret(place):
        raise ValueError(
            f"got {masked(place)!r}; expected an address without password, as addresses are logged and kept: give it "
            "by the environment or a file (docs/security.md says which)"
        )
    scheme, separator, rest = place.partition("://")
    if not separator:
        return str(absolute(Path(place)))
    # A database file's URI has a path after its third slash; other URIs mean what they say.
    if scheme == "sqlite" and rest.startswith("/"):
        return f"sqlite:///{absolute(Path(rest[1:]))}"
    return place


# Relative to where the command was given: workers have other working directories.
def _no_address(given: Any) -> Any:
    # A path would lose one of its slashes, and become a folder here.
    if isinstance(given, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", given):
        raise ValueError(
            f"got {masked(given)!r}; expected a path of this machine, not an address: copy what lies here to one by "
            "tools of its own, such as `aws s3 cp`"
        )
    return given


LocalPath = Annotated[Path, BeforeValidator(_no_address), AfterValidator(absolute)]
"""A path of this machine, made absolute; ~ is the home folder."""
Location = Annotated[str, Field(min_length=1), AfterValidator(_located)]
"""A path, made absolute as a `LocalPath`, or a URI without a password, which stays as it is (in sqlite:///path the path
is made absolute too)."""


def setting_names(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All settings of a model by dotted name, without the groups that they stand in."""
    for name, field in model.model_fields.items():
        # The entries of a dictionary have whatever names a user gives them.
        named = () if get_origin(field.annotation) in (dict, Mapping) else get_args(field.annotation)
        parts = [part for part in (field.annotation, *named) if isinstance(part, type)]
        groups = [part for part in parts if issubclass(part, BaseModel)]
        for group in groups:
            yield from setting_names(group, f"{prefix}{name}.")
        if not groups:
            yield prefix + name


_NAMED: Final = re.compile(r"([\w.]+): ")

_EXPECTED: Final[Mapping[str, str]] = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
    "literal_error": "{expected}",
    "string_too_short": "text of at least {min_length} character",
    "string_too_long": "text of at most {max_length} characters",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
}
"""What is allowed, by pydantic's kinds of errors, whose context fills the gaps."""
_EXPECTED_KINDS: Final[Mapping[str, str]] = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "tuple": "a list",
    "model": "settings by name",
    "dict": "settings by name",
}
"""The same, by what comes before the underscore: int_parsing, int_type, int_from_float, ..."""


def explain(error: ValidationError, named: Callable[[str], str] = str) -> str:
    """A validation error as one line per field: the field, the value and what is allowed.

    Args:
        error: what pydantic raised.
        named: what a user calls a field, given by its dotted name.
    """
    lines = []
    for problem in error.errors():
        field = ".".join(map(str, problem["loc"]))
        # Of a tuple whose every entry is wrong pydantic says besides that it has none.
        if problem["type"] == "too_short" and any(other["loc"][:-1] == problem["loc"] for other in error.errors()):
            continue
        message = masked(_worded(problem))
        # A model's own checks begin with the field they are about, a field's own do not.
        if problem["type"] == "value_error" and (about := _NAMED.match(message)):
            field, message = ".".join(filter(None, (field, about[1]))), message[about.end() :]
        lines.append(f"{named(field)}: {message}" if field else message)
    return "\n".join(lines)


def _worded(problem: ErrorDetails) -> str:
    """What is wrong with a value, in our own words for the common kinds."""
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "value_error":
        return problem["msg"].removeprefix("Value error, ")
    if kind == "missing":
        return "is missing, and has no default"
    if kind == "string_unicode":
        return "is not UTF-8; rename it, or make a link to it that is"
    if kind == "extra_forbidden":
        return f"there is no such setting (got {value!r})"
    if context.get("pattern") == f"^{RUN_NAME}$":
        return f"got {value!r}; expected {NAME_RULE}"
    limits = {name: f"{limit:g}" if isinstance(limit, float) else limit for name, limit in context.items()}
    expected = _EXPECTED.get(kind, "").format(**limits) or _EXPECTED_KINDS.get(kind.partition("_")[0])
    return f"got {value!r}; expected {expected}" if expected else f"{problem['msg']} (got {value!r})"
