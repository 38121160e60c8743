"""What lies in an image: its layers, its packages, and what must not be in it."""

import hashlib
import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.image.engine import Engine
from tests.image.report import FaultError

PACKAGES: Final = Path("opt/metaug_ray/.venv/lib/python3.11/site-packages")
MOST_LAYERS: Final = 3
"""Of an image on a base of one: Debian's packages and the environment."""


def layers(engine: Engine, image: str) -> str:
    """Size and number of the layers."""
    known = engine.inspect(image)
    number = len(known["RootFS"]["Layers"])
    if number > MOST_LAYERS:
        raise FaultError(f"{number} layers; expected {MOST_LAYERS} at most, as some drivers copy each whole")
    return f"{known['Size'] / 1e9:.2f} GB in {number} layers"


def contents(engine: Engine, image: str) -> str:
    """The largest packages."""
    with engine.mounted(image) as root:
        parts = dict(_sizes((root / PACKAGES).iterdir()))
        system = sum(size for _, size in _sizes([root / "usr", root / "var"]))
        compiled = sum(file.stat().st_size for file in (root / PACKAGES).rglob("*.pyc")) / 1e9
    largest = sorted(parts.items(), key=lambda part: -part[1])[:8]
    named = ", ".join(f"{name} {size / 1e3:.2f}" for name, size in largest)
    return (
        f"in GB: Python packages {sum(parts.values()) / 1e3:.2f} ({named}; of all, compiled bytecode {compiled:.2f}), "
        f"Debian {system / 1e3:.2f}"
    )


def _sizes(paths: Iterable[Path]) -> Iterator[tuple[str, int]]:
    ended = subprocess.run(["du", "-sm", *map(str, paths)], check=True, capture_output=True, text=True)
    for line in ended.stdout.splitlines():
        size, path = line.split("\t")
        yield Path(path).name, int(size)


def secrets(engine: Engine, image: str, planted: dict[str, str], known: str) -> str:
    """No planted secret is in any layer, nor in the image's history and settings.

    Args:
        engine: where the image is.
        image: its name.
        planted: the secrets by their places.
        known: a text that is in the image, which shows that the search would find one.
    """
    found = {text for folder in layer_folders(engine, image) for text in _search(folder, [*planted.values(), known])}
    if known not in found:
        raise FaultError("the search for secrets does not even find what is in the image")
    described = json.dumps(engine.inspect(image)) + engine.podman("history", "--no-trunc", image)
    places = [place for place, text in planted.items() if text in found or text in described]
    if places:
        raise FaultError(f"the image has secrets of {', '.join(places)}")
    return f"none of {len(planted)} secrets, planted in files and in the environment, is in a layer or the history"


def layer_folders(engine: Engine, image: str) -> list[Path]:
    """Each layer by itself, so that what a later one deletes is seen too."""
    data: dict[str, Any] = engine.inspect(image)["GraphDriver"]["Data"]
    names = [data["UpperDir"], *data.get("LowerDir", "").split(":")] if "UpperDir" in data else [data["dir"]]
    return [Path(name) for name in names if name]


def _search(folder: Path, texts: list[str]) -> set[str]:
    patterns = "\n".join(texts)
    command = ["grep", "--recursive", "--text", "--only-matching", "--no-filename", "--fixed-strings", "-f", "-"]
    ended = subprocess.run([*command, str(folder)], input=patterns, capture_output=True, text=True)
    if ended.returncode > 1:
        raise FaultError(f"grep cannot read a layer: {ended.stderr.strip()}")
    return set(ended.stdout.splitlines())


def package_hashes(root: Path) -> dict[str, str]:
    """SHA-256 of each file of the environment of an image, by its path."""
    environment = root / "opt/metaug_ray/.venv"
    files = (file for file in sorted(environment.rglob("*")) if file.is_file() and not file.is_symlink())
    found = {str(file.relative_to(environment)): _hash(file) for file in files}
    # Where the builder has what the image has among the other packages.
    built = root / "opt/package"
    own = (file for file in sorted(built.rglob("*")) if file.is_file() and not file.is_symlink())
    return found | {f"lib/python3.11/site-packages/{file.relative_to(built)}": _hash(file) for file in own}


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
