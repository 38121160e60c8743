"""The command line of `jobs/imagenet_resnet50.py`."""

import argparse
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource

from metaug_ray import command_line
from metaug_ray.command_line import CommandError
from metaug_ray.config import PretrainSettings, RegisterSettings
from metaug_ray.errors import UserError
from metaug_ray.training.errors import TrainingError
from metaug_ray.training.presets import PRESETS

_PROGRAM = "imagenet_resnet50.py"


def main(arguments: list[str]) -> int:
    """Runs a pre-training as the arguments say; returns the exit status (1: the run failed, 2: the arguments)."""
    return command_line.run_command(
        _PROGRAM, lambda: parse(arguments), _run, "the same command goes on from the last checkpoint"
    )


def _run(parsed: tuple[PretrainSettings, bool]) -> None:
    settings, only_print = parsed
    # Ray, torch and MLflow take seconds to import; wrong arguments are answered before.
    from metaug_ray.training.trainer import pretrain, to_yaml

    if only_print:
        print(to_yaml(settings), end="")
        return
    outcome = pretrain(settings)
    if outcome.trained_knn is not None and outcome.random_knn is not None:
        print(f"kNN accuracy: {outcome.random_knn:.1%} before training, {outcome.trained_knn:.1%} after")
    if outcome.checkpoints:
        print(f"last checkpoint: {outcome.location}/{outcome.checkpoints[-1]}")
    if settings.register_as is not None:
        _register(settings, settings.register_as)
    if outcome.unsent:
        print(f"MLflow is away: {outcome.unsent} records wait in {outcome.location}; the same command sends them")
    print(
        f"MLflow run {outcome.run_id}; look at it: {_look(outcome.tracking_uri, outcome.experiment_id, outcome.run_id)}"
    )


def _register(settings: PretrainSettings, name: str) -> None:
    """Publish the finished run's encoder."""
    from metaug_ray.evaluation.register import register_encoder
    from metaug_ray.training.trainer import say

    chosen = RegisterSettings(
        encoder=f"run:{settings.name}",
        name=name,
        storage=settings.checkpoint.storage,
        tracking=settings.tracking,
    )
    try:
        register_encoder(chosen, say)
    except UserError as error:
        raise TrainingError(f"{error}; the run is finished, and the same command registers it") from error


def parse(arguments: list[str]) -> tuple[PretrainSettings, bool]:
    """Settings from the command line, then the environment, then `--config`, then `--preset`, then the defaults.

    Returns:
        The settings, and whether they are only to be printed.

    Raises:
        CommandError: an argument, variable or file is wrong; with a line for each.
        SystemExit: after `--help`.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--preset")
    known, _ = first.parse_known_args(arguments)
    values = _merged(_preset(known.preset), _file(known.config))

    class _Sourced(_Command):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, values)

    _Sourced.__doc__ = _Command.__doc__
    command = command_line.parse(_Sourced, arguments, "METAUG_METHOD__BETA")
    chosen = command.model_dump(exclude={"config", "preset", "print_config"})
    # Relative to where the command was given: workers have other working directories.
    for part, name in (("data", "beton"), ("health", "knn_beton"), ("checkpoint", "storage"), ("compute", "staging")):
        place = chosen[part][name]
        if place is not None and "://" not in str(place):
            chosen[part][name] = str(Path(place).expanduser().absolute())
    return PretrainSettings.model_validate(chosen), command.print_config


class _Command(PretrainSettings, BaseSettings):
    """Pre-train encoders with MetAug on a Ray cluster. The defaults are the paper's ImageNet ResNet-50 setting.

    The same command again resumes the run of this name. Each option may also stand in the file of --config, or be an
    environment variable, such as METAUG_METHOD__BETA=64. The command line is stronger than the environment, which is
    stronger than the file, which is stronger than the preset.
    """

    model_config = command_line.command_line(_PROGRAM)

    preset: Literal["imagenet_resnet50", "demo"] = "imagenet_resnet50"
    """starting point: imagenet_resnet50, or demo: five minutes on two CPU cores, on drawn shapes"""
    config: Path | None = Field(None)
    """YAML file of settings, such as --print-config writes"""
    print_config: bool = False
    """print all settings as YAML, and do nothing else"""


def _preset(name: str | None) -> dict[str, Any]:
    # Where it is none of them, the settings say so.
    return _merged({"data": {}}, PRESETS.get(name or "", {}))


def _file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CommandError(f"config: {path} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise CommandError(f"config: {path} holds no settings by name; write one with --print-config")
    return content


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _look(uri: str, experiment: str, run: str) -> str:
    if uri.startswith("http"):
        return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run}"
    return (
        f"uv run mlflow ui --backend-store-uri {uri}, then http://127.0.0.1:5000/#/experiments/{experiment}/runs/{run}"
    )
