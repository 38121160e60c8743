"""The command lines of `jobs/evaluate_encoder.py`, `jobs/register_encoder.py` and `jobs/compare_runs.py`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic_settings import BaseSettings

from metaug_ray.command_line import command_line, parse, run_command
from metaug_ray.config import CompareSettings, EvaluateSettings, RegisterSettings

_C = TypeVar("_C", bound=BaseSettings)


class _Evaluate(EvaluateSettings, BaseSettings):
    """Judge a frozen encoder by labelled images: kNN, linear probes, few labels, each view.

    The results are printed and logged to MLflow. Each option may also be an environment variable, such as
    METAUG_PROBE__SEEDS=5.
    """

    model_config = command_line("evaluate_encoder.py")


class _Register(RegisterSettings, BaseSettings):
    """Publish a run's encoder in MLflow's registry, with its evaluations; it becomes `latest-good`.

    Each option may also be an environment variable, such as METAUG_TRACKING__URI.
    """

    model_config = command_line("register_encoder.py")


class _Compare(CompareSettings, BaseSettings):
    """Compare all evaluated runs: mean and 95 % interval over the seeds of each setting. Trains nothing.

    Each option may also be an environment variable, such as METAUG_TRACKING__URI.
    """

    model_config = command_line("compare_runs.py")


def evaluate_main(arguments: list[str]) -> int:
    """Evaluates as the arguments say; returns the exit status (1: the evaluation failed, 2: the arguments)."""

    def run(command: _Evaluate) -> None:
        from metaug_ray.evaluation.evaluate import evaluate
        from metaug_ray.tracking.runs import resolve_uri

        chosen = command.model_dump()
        # Relative to where the command was given: workers have other working directories.
        for name in ("train", "test"):
            if "://" not in chosen[name]:
                chosen[name] = str(Path(chosen[name]).expanduser().absolute())
        staging = chosen["compute"]["staging"]
        chosen["compute"]["staging"] = None if staging is None else staging.expanduser().absolute()
        judgement = evaluate(EvaluateSettings.model_validate(chosen), _say)
        print(f"MLflow run {judgement.run_id} at {resolve_uri(command.tracking.uri)}")

    return _main(_Evaluate, arguments, run, "the same command goes on with what is done")


def register_main(arguments: list[str]) -> int:
    """Registers as the arguments say; returns the exit status (1: it failed, 2: the arguments)."""

    def run(command: _Register) -> None:
        from metaug_ray.evaluation.register import register_encoder
        from metaug_ray.tracking.runs import resolve_uri

        registration = register_encoder(RegisterSettings.model_validate(command.model_dump()), _say)
        champion = registration.promotion is not None and registration.promotion.promoted
        reference = "@champion" if champion else f"/{registration.version}"
        print(
            f'load it: mlflow.set_tracking_uri("{resolve_uri(command.tracking.uri)}"); '
            f'encoder = mlflow.pytorch.load_model("models:/{registration.name}{reference}")'
        )

    return _main(_Register, arguments, run, "the same command does what is missing")


def compare_main(arguments: list[str]) -> int:
    """Compares as the arguments say; returns the exit status (1: nothing to compare, 2: the arguments)."""

    def run(command: _Compare) -> None:
        from metaug_ray.evaluation.compare import compare

        print(compare(CompareSettings.model_validate(command.model_dump())), end="")
        print(f"\nwritten to {command.output}")

    return _main(_Compare, arguments, run, "nothing is lost")


def _main(command: type[_C], arguments: list[str], run: Callable[[_C], None], interrupted: str) -> int:
    program = str(command.model_config["cli_prog_name"])
    return run_command(program, lambda: parse(command, arguments, "METAUG_TRACKING__URI"), run, interrupted)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
