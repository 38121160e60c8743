"""The study of docs/results.md that says what MetAug is worth: on one device, without Ray.

python -m jobs.studies.worth pack
python -m jobs.studies.worth run --device cuda --processes 16
python -m jobs.studies.worth report --figures data/worth_figures
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, Final

import torch
import yaml
from pydantic import ValidationError

from jobs.studies.worth.images import Parts, pack
from jobs.studies.worth.processes import Ledger, work_off
from jobs.studies.worth.report import draw, report
from jobs.studies.worth.stages import FOLDER, stages
from metaug_ray.commands.base import CommandError, run_command
from metaug_ray.config.base import explain

_PROGRAM: Final = "python -m jobs.studies.worth"
_COMMITTED: Final = FOLDER / "results.jsonl"
_MADE_ANEW: Final = Path("data/worth_results.jsonl")
_EPILOG: Final = """Settings of all runs may follow, to try it with others: --training.epochs 1 --search.trials 2
--compare.seeds 1. Exit status 3: something is left; the same command goes on."""


def main(arguments: list[str]) -> int:
    """Pack the images, run what is not done, or report; returns the exit status (3: something is left)."""
    return run_command(
        _PROGRAM, lambda: _parse(arguments), _do, "what is done is kept, and the same command goes on with the rest"
    )


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, Any]]:
    """The options, and the settings that are changed.

    Raises:
        CommandError: they cannot be used.
        SystemExit: after `--help`, and where argparse refuses them.
    """
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description=(__doc__ or "").splitlines()[0],
        epilog=_EPILOG,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("what", choices=("pack", "run", "report"))
    parser.add_argument("--images", type=Path, default=Path("data/worth.parquet"), help="file of the images")
    parser.add_argument(
        "--results",
        type=Path,
        default=argparse.SUPPRESS,
        help=f"file of what is done, line by line (default: {_MADE_ANEW} to run, which begins anew, and the committed "
        "one to report)",
    )
    all_stages = ",".join(stages())
    parser.add_argument("--stages", default=all_stages, help="that are wanted, parted by commas")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cuda", "cpu"), default=device, help="where the runs are")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after which no further run begins")
    parser.add_argument("--figures", type=Path, help="folder that `report` draws the searches into")
    options, overrides = parser.parse_known_args(arguments)
    changed = _changed(overrides)
    options.stages = options.stages.split(",")
    if unknown := [name for name in options.stages if name not in stages()]:
        raise CommandError(f"--stages: there is no {', '.join(unknown)}; expected some of {all_stages}")
    if "results" not in options:
        options.results = _COMMITTED if options.what == "report" else _MADE_ANEW
    if options.what == "report" and not options.results.exists():
        raise CommandError(f"--results: there is no {options.results}; `run` makes one")
    if options.what == "run" and not options.images.exists():
        raise CommandError(f"--images: there is no {options.images}; `pack` makes it of betons (docs/results.md)")
    if changed and options.what == "run" and options.results.resolve() == _COMMITTED.resolve():
        raise CommandError(
            f"{options.results} holds runs of the study's own settings; give others a file of their own (--results)"
        )
    try:
        stages(changed)["contrasts"]({})
    except ValidationError as error:
        raise CommandError(explain(error)) from error
    return options, changed


def _do(parsed: tuple[argparse.Namespace, dict[str, Any]]) -> int:
    options, changed = parsed
    if options.what == "pack":
        pack({part.name: Path(f"data/worth_{part.name}.beton") for part in fields(Parts)}, 32, options.images)
        return 0
    there_are = stages(changed)
    ledger = Ledger(options.results)
    wanted = {name: build for name, build in there_are.items() if name in options.stages}
    if options.what == "report":
        print(report(wanted, ledger.results))
        if options.figures is not None:
            draw(wanted, ledger.results, options.figures)
        return 0
    done = work_off(
        there_are,
        ledger,
        options.images,
        torch.device(options.device),
        processes=options.processes,
        seconds=options.seconds,
        names=options.stages,
    )
    for name, build in wanted.items():
        if build(ledger.results) is None:
            print(f"stage {name}: what it builds on is not done yet in {options.results}", file=sys.stderr)
    print(report(wanted, ledger.results))
    return 0 if done else 3


def _changed(words: list[str]) -> dict[str, Any]:
    """Settings from what is left of the command line, as `--training.epochs 1`."""
    changed: dict[str, Any] = {}
    left = list(words)
    while left:
        name, value = left[0], left[1] if len(left) > 1 else None
        if not (name.startswith("--") and "." in name) or value is None or value.startswith("--"):
            raise CommandError(f"{name}: is no option, and no setting with a value, such as --training.epochs 1")
        changed[name.removeprefix("--")] = yaml.safe_load(value)
        del left[:2]
    return changed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
