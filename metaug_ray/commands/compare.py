"""The command line of `jobs/compare_runs.py`."""

from pydantic_settings import BaseSettings

from metaug_ray.commands.base import command_line, parse, run_command
from metaug_ray.config.compare import CompareSettings

_PROGRAM = "compare_runs.py"


class _Command(CompareSettings, BaseSettings):
    """Compare all evaluated runs: mean and 95 % interval over the seeds of each setting. Trains nothing.

    Each option may also be an environment variable, such as METAUG_TRACKING__URI.
    """

    model_config = command_line(_PROGRAM)


def main(arguments: list[str]) -> int:
    """Compares as the arguments say; returns the exit status (1: nothing to compare, 2: the arguments)."""
    return run_command(
        _PROGRAM, lambda: parse(_Command, arguments, "METAUG_TRACKING__URI"), _compare, "nothing is lost"
    )


def _compare(settings: CompareSettings) -> None:
    from metaug_ray.evaluation.compare import compare

    print(compare(settings), end="")
    print(f"\nwritten to {settings.output}")
