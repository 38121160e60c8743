"""Builds the CPU image of docker/Dockerfile with buildah, on Debian from debootstrap, and uses it as a cluster would.

It runs as root on Debian 12 with buildah, debootstrap, podman, runc and netavark, needs 30 GB of disk, and changes
nothing outside its folder. docker/README.md says what it found.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.cluster.image import tag
from tests.image import look
from tests.image.base import BASE, make_base
from tests.image.compose import Compose
from tests.image.context import ROOT, Context, planted_context
from tests.image.engine import Engine, missing_programs
from tests.image.inside import Inside
from tests.image.report import FaultError, Step, run_steps, table


def main(arguments: list[str] | None = None) -> int:
    """Build, look, use; returns 1 if there was a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.image", description=__doc__)
    parser.add_argument("--store", type=Path, default=Path("/var/tmp/metaug_image"), help="folder for images and data")
    parser.add_argument("--keep", action="store_true", help="keep the folder, and the image in it")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="some of the steps, on what an earlier --keep left")
    options = parser.parse_args(arguments)
    if shutil.which("uv") is None:  # where the Makefile put it
        os.environ["PATH"] += f"{os.pathsep}{ROOT / '.uv' / 'bin'}"
    missing = missing_programs()
    if missing or os.getuid() != 0:
        parser.error(f"this needs root and {', '.join(missing) or 'nothing else'}: apt-get install {' '.join(missing)}")
    store: Path = options.store.resolve()
    store.mkdir(parents=True, exist_ok=True)
    engine = Engine(store, store / "log.txt")
    steps = _steps(engine, planted_context(store / "context"))
    unknown = set(options.only or ()) - {step.name for step in steps}
    if unknown:
        parser.error(f"--only {' '.join(unknown)}: expected some of {', '.join(step.name for step in steps)}")
    rows = run_steps([step for step in steps if not options.only or step.name in options.only], engine.log)
    print(f"\n{table(rows)}", flush=True)
    if not options.keep:
        engine.podman("system", "reset", "--force")
        shutil.rmtree(store)
    return int(any(row.verdict != "ok" for row in rows))


def _steps(engine: Engine, context: Context) -> list[Step]:
    image = f"localhost/{tag('cpu')}"
    inside = Inside(engine, image)
    known = (ROOT / "jobs" / "imagenet_resnet50.py").read_text(encoding="utf-8").splitlines()[0]
    return [
        Step("base", lambda: make_base(engine), needed=True),
        Step("build", lambda: _build(engine, context, image), needed=True),
        Step("layers", lambda: look.layers(engine, image)),
        Step("contents", lambda: look.contents(engine, image)),
        Step("secrets", lambda: look.secrets(engine, image, context.planted, known)),
        Step("user", inside.user),
        Step("libraries", inside.libraries),
        Step("help", inside.help),
        Step("demo", inside.demo),
        Step("no-token", inside.no_token),
        Step("health", inside.health),
        Step("tests", inside.tests),
        Step("compose", Compose(engine, context.folder).check),
        Step("same-bytes", lambda: _same_bytes(engine, context, image)),
    ]


def _build(engine: Engine, context: Context, image: str, *options: str) -> str:
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    settings = {"BASE": BASE, "DEVICE": "cpu", "COMMIT": commit.strip()}
    arguments = [f"--build-arg={name}={value}" for name, value in settings.items()]
    file = f"--file={context.folder / 'docker' / 'Dockerfile'}"
    before = engine.environment
    engine.environment = before | context.variables
    try:
        engine.buildah(
            "bud", "--format=docker", "--no-cache", *arguments, file, *options, f"--tag={image}", str(context.folder)
        )
    finally:  # what uses the image has tokens of its own
        engine.environment = before
    return f"{image} of commit {commit[:10]}"


def _same_bytes(engine: Engine, context: Context, image: str) -> str:
    """The packages, installed a second time, have the same bytes."""
    second = "localhost/metaug-second"
    _build(engine, context, second, "--target=builder")
    hashes = []
    for name in (image, second):
        with engine.mounted(name) as root:
            hashes.append(look.package_hashes(root))
    engine.buildah("rmi", second)
    one, two = hashes
    different = sorted(path for path in one.keys() | two.keys() if one.get(path) != two.get(path))
    if different:
        raise FaultError(f"of {len(one):,} files {len(different):,} differ: {', '.join(different[:5])}")
    return f"all {len(one):,} files of the environment are the same after a second build"


if __name__ == "__main__":
    sys.exit(main())
