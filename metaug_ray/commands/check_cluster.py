"""The command line of `jobs/check_cluster.py`."""

from functools import partial

from metaug_ray.commands import base
from metaug_ray.commands.files import named_in_file
from metaug_ray.commands.pretrain import PretrainCommand
from metaug_ray.config.base import Location
from metaug_ray.config.preflight import CheckSettings, PreflightSettings
from metaug_ray.config.pretrain import DataSettings
from metaug_ray.config.recorded import RENAMED
from metaug_ray.runtime.words import counted

_PROGRAM = "check_cluster.py"


def main(arguments: list[str]) -> int:
    """Checks as the arguments say; returns the exit status (1: there are faults, 2: the arguments)."""
    return base.run_command(_PROGRAM, lambda: parse(arguments), _check, "nothing is left behind")


def parse(arguments: list[str]) -> PreflightSettings:
    """Settings from the command line, then the environment, `--config`, `--preset`, and the defaults.

    Raises:
        CommandError: an argument, variable or file is wrong; with a line for each.
        SystemExit: after `--help`.
    """
    named = partial(named_in_file, arguments, ("config",))
    run = base.parse(_Command, arguments, "METAUG_CHECK__NODES", RENAMED, named)
    if run.print_config:
        raise base.CommandError("print_config: this command prints none; imagenet_resnet50.py does")
    knn = run.health.knn
    read = (run.data.beton, knn.references_beton, knn.beton)
    return PreflightSettings(
        storage=run.storage,
        # Each once, in this order.
        betons=tuple(dict.fromkeys(beton for beton in read if beton is not None)),
        compute=run.compute,
        tracking=run.tracking,
        check=run.check,
    )


class _Data(DataSettings):
    beton: Location | None = None  # type: ignore[assignment]
    """path or URI of the beton that the run will read; default: none is looked at"""


class _Command(PretrainCommand):
    """Check a Ray cluster before a long run: versions, GPUs, memory, clocks, ports, storage, disks, betons, MLflow and
    the all-reduce, on every node. Leaves nothing behind.

    All options of imagenet_resnet50.py are taken, so that the command of the run to come can be given as it is; those
    that say nothing of machines or places are not looked at. --check.* say what is expected.
    """

    model_config = base.command_line(_PROGRAM)

    data: _Data = _Data()
    """images"""
    check: CheckSettings = CheckSettings()
    """what is expected of the cluster"""


def _check(settings: PreflightSettings) -> None:
    # Ray, torch and MLflow take seconds to import; wrong arguments are answered before.
    from metaug_ray.preflight.errors import PreflightError
    from metaug_ray.preflight.runner import look
    from metaug_ray.preflight.table import show

    report = look(settings)
    show(report.findings, report.nodes)
    if report.faults:
        raise PreflightError(f"{counted(report.faults, 'fault')}; the table says what to do about each")
    print("no faults; the cluster can hold the run")
