"""Three hosts of a cluster on this machine, and what a run makes of what happens to them: docs/clusters.md.

python -m tests.hosts
"""

import argparse
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from metaug_ray.config.prepare import EncodingSettings, PrepareSettings, SourceSettings
from metaug_ray.data.prepare import prepare
from metaug_ray.evaluation.results import markdown
from tests.hosts.scenarios import SCENARIOS, play
from tests.hosts.services import POSTGRES, Services
from tests.hosts.world import IMAGES, World
from tests.namespaces import hosts

_NAMES: Final = ("head", "second", "third", "services")


def main(arguments: list[str] | None = None) -> int:
    """Play the scenarios; returns 1 if a run did not come to the end of the undisturbed one."""
    parser = argparse.ArgumentParser(prog="python -m tests.hosts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=list(SCENARIOS), default=list(SCENARIOS))
    options = parser.parse_args(arguments)
    # What is on the hosts ends with them, however this is ended.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)
    uv = shutil.which("uv") or str(Path(__file__).resolve().parents[2] / ".uv/bin/uv")
    if not (POSTGRES / "postgres").exists():
        parser.error("PostgreSQL is missing; apt-get install postgresql installs it")
    folder = Path(tempfile.mkdtemp(prefix="hosts-", dir="/var/tmp"))
    folder.chmod(0o755)
    print(f"in {folder}", flush=True)
    beton = folder / "shapes.beton"
    source, encoding = SourceSettings(kind="shapes", count=IMAGES, size=32), EncodingSettings(preset="small")
    prepare(PrepareSettings(source=source, encoding=encoding, output=beton, workers=1))
    rows, faults = [], 0
    try:
        with _small_disk(folder / "shared") as shared, hosts(folder, _NAMES, "10.89.0") as made:
            print("PostgreSQL, S3 and MLflow", flush=True)
            services = Services(made[3], uv)
            world = World(folder, made[:3], services, shared, beton)
            undisturbed = {"elastic" if name.startswith("elastic") else "nothing" for name in options.only}
            for name in [name for name in SCENARIOS if name in undisturbed or name in options.only]:
                print(f"{name} ...", flush=True)
                outcome = play(name, world)
                faults += not outcome.end.startswith("finished")
                seconds = ["" if value is None else f"{value:.0f} s" for value in (outcome.noticed, outcome.trains)]
                row = [name, *seconds, str(outcome.twice), outcome.end, outcome.said[:200]]
                print(" | ".join(row), flush=True)
                rows.append(row)
            print(f"MLflow has put {services.artifacts()} files into S3")
    except OSError as error:
        parser.error(f"{error}; it takes root, and a machine that may make networks")
    print(markdown(["what happened", "noticed after", "trains again after", "steps twice", "end", "said"], rows))
    return int(faults > 0)


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    """A folder that all hosts share, and that can be filled."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400m", "metaug-hosts", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


if __name__ == "__main__":
    sys.exit(main())
