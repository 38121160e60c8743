"""The image that docker/Dockerfile begins with, made from Debian's packages where no registry of images is in reach."""

import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.image.engine import Engine
from tests.image.report import FaultError

BASE: Final = "localhost/debian:bookworm-slim"
_AUTHORITIES: Final = Path("usr/local/share/ca-certificates")


def make_base(engine: Engine) -> str:
    """Debian 12's least packages as an image, and this machine's own certificate authorities: where a proxy signs what
    comes from package registries with one, the build must know it."""
    tree = engine.store / "base"
    shutil.rmtree(tree, ignore_errors=True)
    with engine.log.open("a", encoding="utf-8") as log:
        command = ["debootstrap", "--variant=minbase", "bookworm", str(tree)]
        if subprocess.run(command, stdout=log, stderr=log).returncode:
            raise FaultError(f"debootstrap failed; {engine.log} has its words")
    for folder in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(tree / folder)
        (tree / folder).mkdir()
    authorities = sorted((Path("/") / _AUTHORITIES).glob("*.crt"))
    (tree / _AUTHORITIES).mkdir(parents=True, exist_ok=True)
    for file in authorities:
        shutil.copy(file, tree / _AUTHORITIES)
    commit(engine, "scratch", BASE, [(str(tree), "/")])
    shutil.rmtree(tree)
    return (
        f"{engine.inspect(BASE)['Size'] / 1e6:.0f} MB, with {len(authorities)} certificate authorities of this machine"
    )


def commit(engine: Engine, base: str, name: str, files: list[tuple[str, str]]) -> None:
    """An image that is another one and some files of this machine."""
    container = engine.buildah("from", base).strip()
    for source, target in files:
        engine.buildah("add", "-q", container, source, target)
    engine.buildah("commit", "-q", "--rm", container, name)
