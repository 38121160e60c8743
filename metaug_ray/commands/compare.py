"""The command line of `jobs/compare_runs.py`."""

from pydantic_settings import BaseSettings

from metaug_ray.commands.base import command_line, run_job
from metaug_ray.config.compare import CompareSettings


class _Command(CompareSettings, BaseSettings):
    """Compare all evaluated runs: mean and 95 % interval over the seeds of each setting. Trains nothing.

    Each option may also be an environment variable, such as METAUG_TRACKING__URI.
    """

    model_config = command_line("compare_runs.py")


def main(arguments: list[str]) -> int:
    """Compares as the arguments say; returns the exit status (1: nothing to compare, 2: the arguments)."""
    return run_job(_Command, CompareSettings, arguments, _compare, interrupted="nothing is lost")


def _compare(settings: CompareSettings) -> None:
    from metaug_ray.evaluation.compare import compare

    print(compare(settings), end="")
    print(f"\nwritten to {settings.output}")
