"""The command line of `jobs/register_encoder.py`."""

from pydantic_settings import BaseSettings

from metaug_ray.commands.base import command_line, run_job
from metaug_ray.config.register import RegisterSettings


class _Command(RegisterSettings, BaseSettings):
    """Publish a run's encoder in MLflow's registry, with its evaluations; it becomes `latest-good`.

    Each option may also be an environment variable, such as METAUG_TRACKING__URI.
    """

    model_config = command_line("register_encoder.py")


def main(arguments: list[str]) -> int:
    """Registers as the arguments say; returns the exit status (1: it failed, 2: the arguments)."""
    return run_job(
        _Command, RegisterSettings, arguments, _register, interrupted="the same command does what is missing"
    )


def _register(settings: RegisterSettings) -> None:
    from metaug_ray.evaluation.register import register_encoder

    registration = register_encoder(settings)
    champion = registration.promotion is not None and registration.promotion.promoted
    reference = "@champion" if champion else f"/{registration.version}"
    print(
        f'load it: mlflow.set_tracking_uri("{settings.tracking.uri}"); '
        f'encoder = mlflow.pytorch.load_model("models:/{registration.name}{reference}")'
    )
