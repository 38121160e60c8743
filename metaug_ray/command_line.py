"""What the jobs' command lines have in common."""

import signal
from types import FrameType
from typing import TypeVar

from pydantic import ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict, SettingsError

from metaug_ray.config import explain

_C = TypeVar("_C", bound=BaseSettings)


class CommandError(Exception):
    """Arguments, variables or files of settings that cannot be used; a line for each."""


def command_line(program: str) -> SettingsConfigDict:
    """Options --part.field-name, and environment variables METAUG_PART__FIELD_NAME, for all fields of a model."""
    return SettingsConfigDict(
        env_prefix="METAUG_",
        env_nested_delimiter="__",
        cli_prog_name=program,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
    )


def parse(command: type[_C], arguments: list[str], variable: str) -> _C:
    """Settings from the command line and the environment.

    Args:
        command: a model with :func:`command_line`.
        arguments: without the program's name.
        variable: an environment variable that sets a part of one of its fields, to be named where somebody sets a
            whole one.

    Raises:
        CommandError: an argument or variable is wrong.
        SystemExit: after `--help`.
    """
    try:
        return CliApp.run(command, arguments)
    except ValidationError as error:
        raise CommandError(explain(error)) from error
    except SettingsError as error:
        raise CommandError(f"{error}; set its parts, such as {variable}") from error


def interrupt_on_sigterm() -> None:
    """SIGTERM, by which schedulers stop a job, raises `KeyboardInterrupt` as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
