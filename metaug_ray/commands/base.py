"""What the jobs' command lines have in common: settings from their sources, and a command from start to exit status."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import redirect_stderr
from difflib import get_close_matches
from functools import partial
from io import StringIO, TextIOWrapper
from types import FrameType
from typing import Final, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, CliApp, SettingsConfigDict, SettingsError

from metaug_ray.addresses import masked
from metaug_ray.config.base import Settings, explain, setting_names
from metaug_ray.errors import LostError, UserError
from metaug_ray.runtime.log import shown_log
from metaug_ray.runtime.parent import came_to_its_end
from metaug_ray.runtime.signals import Repeats

_C = TypeVar("_C", bound=BaseSettings)
_P = TypeVar("_P", bound=Settings)
_S = TypeVar("_S")

_PREFIX: Final = "METAUG_"
_COMMANDS: Final = {"METAUG_PRESET", "METAUG_CONFIG", "METAUG_PRINT_CONFIG", "METAUG_SWEEP", "METAUG_REPORT"}
"""Variables that only command lines know, and no settings."""


class CommandError(Exception):
    """Arguments, variables or files of settings that cannot be used; a line for each."""

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


def command_line(program: str) -> SettingsConfigDict:
    """Options --part.field-name, and environment variables METAUG_PART__FIELD_NAME, for all fields of a model."""
    return SettingsConfigDict(
        env_prefix=_PREFIX,
        env_nested_delimiter="__",
        cli_prog_name=program,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        # As the help says it.
        cli_parse_none_str="none",
        env_parse_none_str="none",
    )


def parse(
    command: type[_C],
    arguments: list[str],
    variable: str,
    renamed: Mapping[str, Sequence[str]] | None = None,
    file: Callable[[str], str] = str,
) -> _C:
    """Settings from the command line and the environment, and from what other sources the model has.

    Args:
        command: a model with :func:`command_line`.
        arguments: without the program's name.
        variable: an environment variable that sets a part of one of its fields, to be named where somebody sets a
            whole one.
        renamed: new names of settings by their old ones.
        file: what to call a setting, by its dotted name, that neither an option nor a variable set.

    Raises:
        CommandError: an argument or variable is wrong.
        SystemExit: after `--help`.
    """
    known = renamed or {}
    options = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
    names = {option: option.removeprefix("--").removeprefix("no-").replace("-", "_") for option in sorted(options)}
    old = [_say_renamed(option, map(_option, known[name])) for option, name in names.items() if name in known]
    if unknown := old + _unknown_variables(command):
        raise CommandError("\n".join(unknown))
    complaint = StringIO()
    try:
        with redirect_stderr(complaint):
            return CliApp.run(command, arguments)
    except SystemExit as ended:
        if not ended.code:
            raise
        # Before its last line argparse says all options that there are.
        said = complaint.getvalue().strip().rpartition("error: ")[2]
        raise CommandError(f"{said}{_suggestion(command, options)} (--help lists all options)") from ended
    except ValidationError as error:
        fields = [".".join(map(str, problem["loc"])) for problem in error.errors()]
        old = [_say_renamed(_variable(name), map(_variable, known[name])) for name in fields if name in known]
        raise CommandError("\n".join(old) or explain(error, partial(_named, options, file))) from error
    except SettingsError as error:
        raise CommandError(f"{error}; set its parts, such as {variable}") from error


def _suggestion(command: type[BaseSettings], given: set[str]) -> str:
    """What somebody who gave an option that there is not may have meant."""
    there_are = [_option(name) for name in setting_names(command)]
    unknown = sorted(option for option in given if option.replace("--no-", "--") not in there_are)
    close = [get_close_matches(option.replace("_", "-"), there_are, 1, 0.8) for option in unknown]
    return "".join(f"; did you mean {found[0]}" for found in close[:1] if found)


def _named(options: Set[str], file: Callable[[str], str], field: str) -> str:
    """A field, by the variable or the file that set it if one did."""
    # An entry of a list, such as probe.label_shares.0, is set with its list.
    setting = re.sub(r"(\.\d+)+$", "", field)
    if _option(setting) in {option.replace("--no-", "--") for option in options}:
        return field
    return _variable(setting) if _variable(setting) in os.environ else file(field)


def _unknown_variables(command: type[BaseSettings]) -> list[str]:
    """A line for each variable of ours that sets nothing, of any command: pydantic reads over most of them."""
    ours = sorted(name for name in map(str.upper, os.environ) if name.startswith(_PREFIX))
    unknown = [name for name in ours if not _sets(name, command)]
    if not unknown:
        return []
    # Seldom needed, and not by the command itself.
    from metaug_ray.config import (
        CapacitySettings,
        CompareSettings,
        EvaluateSettings,
        PreflightSettings,
        PrepareSettings,
        PretrainSettings,
        RegisterSettings,
        SweepSettings,
    )

    others = (
        PrepareSettings,
        PretrainSettings,
        EvaluateSettings,
        RegisterSettings,
        CompareSettings,
        SweepSettings,
        CapacitySettings,
        PreflightSettings,
    )
    lines = []
    for name in unknown:
        if name in _COMMANDS or any(_sets(name, other) for other in others):
            continue
        there_are = [_variable(setting) for setting in setting_names(command)]
        close = get_close_matches(name, there_are, 1, 0.8)
        # Kubernetes sets METAUG_PORT and the like in every pod where a service is called metaug.
        if not close and "__" not in name:
            continue
        meant = f"; did you mean {close[0]}" if close else "; unset it"
        lines.append(f"{name}: no command has such a setting{meant} (--help lists all options)")
    return lines


def _sets(variable: str, model: type[BaseModel]) -> bool:
    """Whether a variable sets something of a model. What is wrong beneath a group that there is, pydantic tells."""
    return variable.removeprefix(_PREFIX).partition("__")[0].lower() in model.model_fields


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _variable(name: str) -> str:
    return f"{_PREFIX}{name.replace('.', '__').upper()}"


def _say_renamed(old: str, new: Iterable[str]) -> str:
    """Why an old name is refused, and what to write."""
    names = list(new)
    if not names:
        return f"{old}: does not exist any more (CHANGELOG.md says why); leave it out"
    if len(names) == 1:
        return f"{old}: is called {names[0]} now"
    return f"{old}: each contrast has a parameter of its own now, {', '.join(names[:-1])} or {names[-1]}"


def run_job(
    command: type[BaseSettings],
    settings: type[_P],
    arguments: list[str],
    run: Callable[[_P], int | None],
    *,
    interrupted: str,
    variable: str = "METAUG_TRACKING__URI",
) -> int:
    """A command whose settings come from the command line and the environment; returns its exit status.

    Args, Raises: see :func:`parse` and :func:`run_command`; `run` gets plain `settings`, which know of neither.
    """
    program = str(command.model_config["cli_prog_name"])

    def parsed() -> _P:
        return settings.model_validate(parse(command, arguments, variable).model_dump())

    return run_command(program, parsed, run, interrupted)


def run_command(program: str, parsed: Callable[[], _S], run: Callable[[_S], int | None], interrupted: str) -> int:
    """A command from its arguments to its exit status; what goes wrong is said in a sentence.

    SIGTERM, by which schedulers stop a job, ends it as Ctrl-C does, and both at once, whatever an event loop would do.

    Args:
        program: name that such a sentence begins with.
        parsed: gives the settings.
        run: does what they say, and may give another status than 0; what takes long to import it imports itself, so
            that wrong arguments are answered before.
        interrupted: what a user whose command was interrupted wants to know.

    Returns:
        0, 1 where it failed, 2 where the arguments are wrong, 75 (`TEMPORARY`) where it lost what may come back, 130
        where it was interrupted.

    Raises:
        SystemExit: after `--help`.
    """
    # Paths are said in whatever letters they have, also where the terminal's encoding has not all of them.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    _repeats.forget()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    before, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    try:
        with shown_log():
            return _answered(program, parsed, run, interrupted)
    finally:
        sys.unraisablehook = before
        came_to_its_end()


def _answered(program: str, parsed: Callable[[], _S], run: Callable[[_S], int | None], interrupted: str) -> int:
    try:
        settings = parsed()
    except CommandError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    try:
        return run(settings) or 0
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        return error.status if isinstance(error, LostError) else 1
    except (KeyboardInterrupt, SystemExit):
        print(f"{program}: interrupted; {interrupted}", file=sys.stderr)
        return 130


_repeats = Repeats()


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not _repeats.again():
        raise KeyboardInterrupt


def _interrupt_again(dropped: "sys.UnraisableHookArgs") -> None:
    """Python drops what is raised while it calls back, as for a weak reference: an interruption comes once more."""
    main = threading.main_thread().ident
    if main is not None and isinstance(dropped.exc_value, KeyboardInterrupt):
        _repeats.forget()
        threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGTERM)).start()
    else:
        sys.__unraisablehook__(dropped)
