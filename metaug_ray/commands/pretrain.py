"""The command line of `jobs/imagenet_resnet50.py`."""

import os
import shlex
from functools import partial
from typing import ClassVar

from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from metaug_ray.commands import base
from metaug_ray.commands.files import FileSource, PresetSource, named_in_file
from metaug_ray.config.base import LocalPath
from metaug_ray.config.presets import PresetName
from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.config.recorded import RENAMED, to_yaml
from metaug_ray.config.register import RegisterSettings
from metaug_ray.errors import NotBegunError, UserError
from metaug_ray.runtime.errors import ClusterError, StorageError
from metaug_ray.runtime.parent import Restarts, watched
from metaug_ray.tracking.errors import TrackingError

_PROGRAM = "imagenet_resnet50.py"


def main(arguments: list[str]) -> int:
    """Runs a pre-training as the arguments say; returns the exit status (1: the run failed, 2: the arguments)."""
    return base.run_command(
        _PROGRAM, lambda: parse(arguments), _run, "the same command goes on from the last checkpoint, if there is one"
    )


def parse(arguments: list[str]) -> tuple[PretrainSettings, bool]:
    """Settings from the command line, then the environment, then `--config`, then `--preset`, then the defaults.

    Returns:
        The settings, and whether they are only to be printed.

    Raises:
        CommandError: an argument, variable or file is wrong; with a line for each.
        SystemExit: after `--help`.
    """
    command = base.parse(
        PretrainCommand, arguments, "METAUG_METHOD__DELTA", RENAMED, partial(named_in_file, arguments, ("config",))
    )
    # What nobody set stays a default: a run's own record may know better, such as where its MLflow is.
    chosen = command.model_dump(exclude={"config", "preset", "print_config"}, exclude_unset=True)
    return PretrainSettings.model_validate(chosen), command.print_config


class PretrainCommand(PretrainSettings, BaseSettings):
    """Pre-train encoders with MetAug on a Ray cluster. The defaults are the paper's ImageNet ResNet-50 setting.

    The same command again resumes the run of this name. Each option may also stand in the file of --config, or be an
    environment variable, such as METAUG_METHOD__UNIFIED__BETA=64. The command line is stronger than the environment,
    which is stronger than the file, which is stronger than the preset.
    """

    model_config = base.command_line(_PROGRAM)
    below: ClassVar[tuple[type[InitSettingsSource], ...]] = (FileSource, PresetSource)
    """Sources beneath the command line and the environment, the strongest first."""

    preset: PresetName = "imagenet_resnet50"
    """starting point: imagenet_resnet50: the paper's; imagenet_metaug_fast: the same with a cheaper meta step;
    recommended: CMC with a slow memory bank, the best of a small study; demo: five minutes on two CPU cores, on drawn
    shapes; others: two crops through one encoder (docs/methods.md)"""
    config: LocalPath | None = None
    """YAML file of settings, such as --print-config writes"""
    print_config: bool = False
    """print all settings as YAML, and do nothing else"""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, *(source(settings_cls, {}) for source in cls.below)


def _run(parsed: tuple[PretrainSettings, bool]) -> int:
    settings, only_print = parsed
    if only_print:
        print(to_yaml(settings), end="")
        return 0
    address = settings.compute.address or os.environ.get("RAY_ADDRESS", "")
    cluster = address if ":" in address else None
    restarts = Restarts(settings.compute.max_driver_restarts, cluster, partial(_end_in_mlflow, settings))
    return watched(partial(_train, settings), restarts)


def _train(settings: PretrainSettings, begun: int) -> int:
    """Train, after so many earlier beginnings by the same command; returns the exit status."""
    try:
        _pretrain(settings)
    except (ClusterError, StorageError, TrackingError) as error:
        # It was there when the command was given, so that it may come back.
        if begun:
            raise NotBegunError(str(error)) from error
        raise
    return 0


def _end_in_mlflow(settings: PretrainSettings) -> None:
    from metaug_ray.training.trainer import end_in_mlflow

    end_in_mlflow(settings, "FAILED")


def _pretrain(settings: PretrainSettings) -> None:
    # Ray, torch and MLflow take seconds to import; wrong arguments are answered before.
    from metaug_ray.training.trainer import pretrain

    outcome = pretrain(settings)
    if outcome.trained_knn is not None and outcome.random_knn is not None:
        print(f"kNN accuracy: {outcome.random_knn:.1%} before training, {outcome.trained_knn:.1%} after")
    if outcome.checkpoints:
        print(f"last checkpoint: {outcome.location}/{outcome.checkpoints[-1]}")
    if settings.register_as is not None:
        _register(settings, settings.register_as, outcome.tracking_uri)
    if outcome.unsent:
        print(f"MLflow is away: {outcome.unsent} records wait in {outcome.location}; the same command sends them")
    print(
        f"MLflow run {outcome.run_id}; look at it: {_look(outcome.tracking_uri, outcome.experiment_id, outcome.run_id)}"
    )


def _register(settings: PretrainSettings, name: str, uri: str) -> None:
    """Publish the finished run's encoder."""
    from metaug_ray.evaluation.register import register_encoder

    tracking = settings.tracked_at(uri).tracking
    chosen = RegisterSettings(encoder=f"run:{settings.name}", name=name, storage=settings.storage, tracking=tracking)
    try:
        register_encoder(chosen)
    except UserError as error:
        raise UserError(f"{error}; the run is finished, and the same command registers it") from error


def _look(uri: str, experiment: str, run: str) -> str:
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run}"
    return f"uv run mlflow ui --backend-store-uri {shlex.quote(uri)}, then http://127.0.0.1:5000/#/experiments/{experiment}/runs/{run}"
