"""`cluster/slurm/job.sh` under a real Slurm of three nodes, which this command makes and throws away. Needs root."""

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from metaug_ray.config import EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.data.prepare import prepare
from tests.slurm.batch import User
from tests.slurm.machine import MissingError, slurm
from tests.slurm.scenarios import SCENARIOS, Row, Scene


def main(arguments: list[str] | None = None) -> int:
    """Run the scenarios and print a table; returns 1 if one went wrong, 2 where there can be no Slurm."""
    parser = argparse.ArgumentParser(prog="python -m tests.slurm", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--keep", action="store_true", help="keep the folder of logs and runs")
    options = parser.parse_args(arguments)
    # So that nodes and networks go with this command, however it ends.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Each node has a /tmp of its own, so it is not there.
    folder = Path(tempfile.mkdtemp(prefix="metaug-slurm-", dir="/var/tmp"))
    names = options.only or list(SCENARIOS)
    # What others are compared with.
    names = names if "finished" in names else ["finished", *names]
    faults = 1
    try:
        with slurm(folder, 3) as made:
            outcomes = _run(Scene(User(made, folder / "home"), _shapes(folder)), names)
        faults = sum(outcome.fault for outcome in outcomes)
        print(f"\n{table(outcomes)}")
    except MissingError as error:
        print(f"python -m tests.slurm: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("python -m tests.slurm: interrupted", file=sys.stderr)
        return 130
    finally:
        if options.keep or faults:
            print(f"logs and runs: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return int(faults > 0)


class Outcome(NamedTuple):
    """A scenario that was run."""

    name: str
    row: Row
    seconds: float
    fault: bool = False


def table(outcomes: list[Outcome]) -> str:
    """All scenarios, as a table of Markdown."""
    lines = ["| scenario | Slurm says | the user sees | final weights | |", "|---|---|---|---|---|"]
    for name, row, seconds, fault in outcomes:
        verdict = "FAULT" if fault else f"{seconds:.0f} s"
        lines.append(f"| {name} | {row.slurm} | {row.seen} | {row.weights} | {verdict} |")
    return "\n".join(lines)


def _run(scene: Scene, names: list[str]) -> list[Outcome]:
    outcomes = []
    for name in names:
        print(f"{time.strftime('%T')} {name} ...", flush=True)
        began = time.monotonic()
        try:
            row, fault = SCENARIOS[name](scene), False
        # The next scenario may still work.
        except Exception as error:
            row, fault = Row("", f"{type(error).__name__}: {error}".partition("\n")[0]), True
            print(error, file=sys.stderr)
            scene.user.slurm.call("scancel", "--user=root", "--full")
            time.sleep(5)
        print(f"{time.strftime('%T')} {name}: {row.slurm} {row.seen} {row.weights}", flush=True)
        outcomes.append(Outcome(name, row, time.monotonic() - began, fault))
    return outcomes


def _shapes(folder: Path) -> Path:
    """256 drawn shapes, 32 px."""
    output = folder / "shapes.beton"
    source = SourceSettings(kind="shapes", count=256, size=32)
    prepare(PrepareSettings(source=source, encoding=EncodingSettings(preset="small"), output=output, workers=1))
    return output


if __name__ == "__main__":
    sys.exit(main())
