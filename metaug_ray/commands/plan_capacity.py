"""The command line of `jobs/plan_capacity.py`."""

from functools import partial
from typing import Any

from pydantic_settings import InitSettingsSource

from metaug_ray.commands import base
from metaug_ray.commands.files import named_in_file
from metaug_ray.commands.pretrain import PretrainCommand
from metaug_ray.config.plan import CapacitySettings, PlanSettings
from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.config.recorded import RENAMED, to_yaml

_PROGRAM = "plan_capacity.py"


def main(arguments: list[str]) -> int:
    """Plans as the arguments say; returns the exit status (1: something is not known, 2: the arguments)."""
    return base.run_command(_PROGRAM, lambda: parse(arguments), _plan, "nothing is lost")


def parse(arguments: list[str]) -> tuple[CapacitySettings, bool]:
    """Settings from the command line, then the environment, `--config`, `--preset`, and the defaults.

    Returns:
        The settings, and whether those of the run are only to be printed.

    Raises:
        CommandError: an argument, variable or file is wrong; with a line for each.
        SystemExit: after `--help`.
    """
    command = base.parse(
        _Command, arguments, "METAUG_PLAN__PRICE", RENAMED, partial(named_in_file, arguments, ("config",))
    )
    run = command.model_dump(exclude={"config", "preset", "print_config", "plan"}, exclude_unset=True)
    return CapacitySettings(run=PretrainSettings.model_validate(run), plan=command.plan), command.print_config


class _NoData(InitSettingsSource):
    """A beton that need not be there: a plan is made before the data is."""

    def __call__(self) -> dict[str, Any]:
        return {"data": {"beton": "imagenet.beton"}}


class _Command(PretrainCommand):
    """Say what a run will need on so many GPUs: time, cost, memory, network, CPUs and disk. Trains and asks nothing.

    All options of imagenet_resnet50.py say which run. What is assumed of machines is printed below the plan, with the
    option that replaces it. Each option may also be an environment variable, such as METAUG_PLAN__PRICE.
    """

    model_config = base.command_line(_PROGRAM)
    below = (*PretrainCommand.below, _NoData)

    plan: PlanSettings = PlanSettings()
    """the machines"""


def _plan(parsed: tuple[CapacitySettings, bool]) -> int:
    """Returns 1 where the run would begin on none of these numbers of GPUs."""
    settings, only_print = parsed
    if only_print:
        print(to_yaml(settings.run), end="")
        return 0
    # torch takes seconds to import; wrong arguments are answered before.
    from metaug_ray.capacity.lines import Refused
    from metaug_ray.capacity.plan import make_plan
    from metaug_ray.capacity.report import as_json, as_text

    plan = make_plan(settings)
    print(as_json(plan) if settings.plan.as_json else as_text(plan), end="")
    return int(all(isinstance(line, Refused) for line in plan.lines))
