"""The command line of `jobs/tune_hyperparameters.py`."""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

from pydantic import ValidationError

from metaug_ray.commands import base
from metaug_ray.commands.base import CommandError
from metaug_ray.commands.files import SweepSource, named_in_file
from metaug_ray.commands.pretrain import PretrainCommand
from metaug_ray.config.base import LocalPath, explain
from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.config.recorded import RENAMED
from metaug_ray.config.sweep import ComparisonSettings, Parameter, RefitSettings, SearchSettings, SweepSettings
from metaug_ray.tuning.space import complaints, shown

_PROGRAM = "tune_hyperparameters.py"
_JSON = """--space '{"method.delta": {"choice": [0.1, 0.01]}}'"""
_OF_THE_SWEEP = ("space", "groups", "search", "compare", "refit")
_OF_THE_COMMAND = ("preset", "config", "sweep", "print_config", "report")


class Wish(NamedTuple):
    """What a user wants of the command.

    Attributes:
        settings: of the sweep; None where only a report is wanted.
        only_print: them, as YAML.
        report: storage and name of the sweep whose report is to be written, and nothing else done; None for none.
    """

    settings: SweepSettings | None
    only_print: bool = False
    report: tuple[str, str] | None = None


def main(arguments: list[str]) -> int:
    """Runs a sweep as the arguments say; returns the exit status (1: the sweep failed, 2: the arguments)."""
    return base.run_command(
        _PROGRAM, lambda: parse(arguments), _run, "the same command goes on where the sweep was interrupted"
    )


def parse(arguments: list[str]) -> Wish:
    """Settings from the command line, then the environment, `--sweep`, `--config`, `--preset`, and the defaults.

    Raises:
        CommandError: an argument, variable or file is wrong, or a point of the space; with a line for each.
        SystemExit: after `--help`.
    """
    named = partial(named_in_file, arguments, ("sweep", "config"))
    # The sweep knows its data, which are an option without a default.
    if "--report" in arguments:
        arguments = ["--data.beton", "of-the-sweep", *arguments]
    command = base.parse(_Command, arguments, f"METAUG_SEARCH__TRIALS, or give JSON, as {_JSON}", RENAMED, named)
    if command.report:
        return Wish(None, report=(command.storage, command.name))
    run = command.model_dump(exclude={*_OF_THE_SWEEP, *_OF_THE_COMMAND}, exclude_unset=True)
    sweep = {name: getattr(command, name) for name in _OF_THE_SWEEP}
    try:
        settings = SweepSettings(run=PretrainSettings.model_validate(run), **sweep)
    except ValidationError as error:
        raise CommandError(explain(error)) from error
    if wrong := complaints(settings):
        raise CommandError("\n".join(wrong))
    return Wish(settings, command.print_config)


class _Command(PretrainCommand):
    """Search settings of the main job, and compare what was found, on a Ray cluster.

    All options of imagenet_resnet50.py hold for every run of the sweep; --name is the sweep's. The same command again
    goes on where the sweep was interrupted.
    """

    model_config = base.command_line(_PROGRAM)
    below = (SweepSource, *PretrainCommand.below)

    sweep: LocalPath | None = None
    """YAML file that says what is searched, such as jobs/sweeps/greek.yaml; it may hold any other option too, and is
    stronger than the file of --config"""
    report: bool = False
    """write report and figures of what the sweep of this --name has so far, also while it runs, and do nothing else"""
    space: Mapping[str, Parameter] = {}
    """values of settings by dotted name, as JSON: '{"method.delta": {"log_uniform": [1e-8, 0.1]}}'"""
    groups: Mapping[str, Mapping[str, Any]] = {}
    """variants that are searched by themselves and compared: settings by dotted name, as JSON"""
    search: SearchSettings = SearchSettings()
    """how the space is searched"""
    compare: ComparisonSettings | None = None
    """comparison of the groups' best on new seeds"""
    refit: RefitSettings | None = None
    """longer training of the best"""


def _run(wish: Wish) -> None:
    settings = wish.settings
    if settings is not None and wish.only_print:
        print(settings.to_yaml(), end="")
        return
    # Ray, torch and MLflow take seconds to import; wrong arguments are answered before.
    from metaug_ray.tuning.sweep import report, tune

    if wish.report is not None:
        print(f"report: {report(*wish.report)}/report.md")
    if settings is None:
        return
    outcome = tune(settings)
    metric = settings.run.health.best_metric
    for group in settings.variants:
        best = outcome.trials.best(group)
        if best is not None and best.runs:
            named = f" of {group}" if group else ""
            print(f"best{named}: {metric} {best.value:.4g} with {shown(best.values)}")
    if outcome.left is not None:
        print(f"{outcome.left}, and not everything was tried; the same command with more of them goes on")
    for name in outcome.registered:
        print(f"registered: {name}")
    print(f"report: {outcome.report}/report.md; MLflow run {outcome.run_id} at {outcome.tracking_uri}")
