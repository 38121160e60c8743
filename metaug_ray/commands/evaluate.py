"""The command line of `jobs/evaluate_encoder.py`."""

from pydantic_settings import BaseSettings

from metaug_ray.commands.base import command_line, run_job
from metaug_ray.config.evaluate import EvaluateSettings


class _Command(EvaluateSettings, BaseSettings):
    """Judge a frozen encoder by labelled images: kNN, linear probes, few labels, each view.

    The results are printed and logged to MLflow. Each option may also be an environment variable, such as
    METAUG_PROBE__SEEDS=5.
    """

    model_config = command_line("evaluate_encoder.py")


def main(arguments: list[str]) -> int:
    """Evaluates as the arguments say; returns the exit status (1: the evaluation failed, 2: the arguments)."""
    return run_job(
        _Command, EvaluateSettings, arguments, _evaluate, interrupted="the same command goes on with what is done"
    )


def _evaluate(settings: EvaluateSettings) -> None:
    from metaug_ray.evaluation.evaluate import evaluate

    judgement = evaluate(settings)
    print(f"MLflow run {judgement.run_id} at {settings.tracking.uri}")
