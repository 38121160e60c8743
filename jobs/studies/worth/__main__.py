"""The study of docs/results.md that says what MetAug is worth: on one device, without Ray.

python -m jobs.studies.worth pack
python -m jobs.studies.worth run --device cuda --processes 16
python -m jobs.studies.worth report --figures data/worth_figures
"""

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import yaml

from jobs.studies.worth.images import Parts, pack
from jobs.studies.worth.processes import Ledger, work_off
from jobs.studies.worth.report import draw, report
from jobs.studies.worth.stages import FOLDER, stages


def main(arguments: list[str]) -> int:
    """Pack the images, run what is not done, or report; returns the exit status (3: something is left)."""
    parser = argparse.ArgumentParser(prog="python -m jobs.studies.worth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("pack", "run", "report"))
    parser.add_argument("--images", type=Path, default=Path("data/worth.parquet"), help="file of the images")
    parser.add_argument(
        "--results",
        type=Path,
        help="file of what is done, line by line; default: data/worth_results.jsonl to run, which begins anew, and the "
        "committed one to report",
    )
    parser.add_argument("--stages", help="that are wanted, parted by commas; default: all")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time")
    parser.add_argument("--seconds", type=float, default=1e9, help="after which no further run begins")
    parser.add_argument("--figures", type=Path, help="folder that `report` draws the searches into")
    options, overrides = parser.parse_known_args(arguments)
    if options.what == "pack":
        betons = {part.name: Path(f"data/worth_{part.name}.beton") for part in fields(Parts)}
        pack(betons, 32, options.images)
        return 0
    there_are = stages(_changed(parser, overrides))
    committed = FOLDER / "results.jsonl"
    results = options.results or (committed if options.what == "report" else Path("data/worth_results.jsonl"))
    if overrides and options.what == "run" and results.resolve() == committed.resolve():
        parser.error(f"{results} holds runs of the study's own settings; give others a file of their own (--results)")
    ledger = Ledger(results)
    names = options.stages.split(",") if options.stages else list(there_are)
    if options.what == "report":
        print(report(there_are, ledger.results))
        if options.figures is not None:
            draw(there_are, ledger.results, options.figures)
        return 0
    done = work_off(
        there_are,
        ledger,
        options.images,
        torch.device(options.device),
        processes=options.processes,
        seconds=options.seconds,
        names=names,
    )
    print(report(there_are, ledger.results))
    return 0 if done else 3


def _changed(parser: argparse.ArgumentParser, words: list[str]) -> dict[str, Any]:
    """Settings from what is left of the command line, as `--training.epochs 1`."""
    names, values = words[::2], words[1::2]
    if len(names) != len(values) or not all(name.startswith("--") and "." in name for name in names):
        parser.error(f"settings are pairs such as --training.epochs 1, and these are not: {' '.join(words)}")
    return {name.removeprefix("--"): yaml.safe_load(value) for name, value in zip(names, values, strict=True)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
