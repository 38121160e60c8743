"""The tree that is built, with secrets planted where people have them."""

import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]

PLACES: Final = (
    ".env",
    "data/shapes.beton",
    "docker/.env",
    "docker/secrets/ray_token",
    "docker/secrets/aws_credentials",
    "jobs/.env",
    "jobs/studies/.env",
    "jobs/photos.beton",
    "metaug_ray/.env",
    "metaug_ray/__pycache__/settings.cpython-311.pyc",
    "token.txt",
)
"""Files with secrets, or of the user's own, that lie in a tree and are no part of the package."""

VARIABLES: Final = ("RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY")
"""Secrets in the environment of who builds."""


@dataclass(frozen=True)
class Context:
    """What is sent to a build.

    Attributes:
        folder: with the files of this tree that git knows, and what was planted.
        planted: each planted secret by its place, a file or a variable.
    """

    folder: Path
    planted: dict[str, str]

    @property
    def variables(self) -> dict[str, str]:
        return {name: self.planted[name] for name in VARIABLES}


def planted_context(folder: Path) -> Context:
    """A copy of this tree with secrets planted in it."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    planted = {name: secrets.token_hex(24) for name in (*PLACES, *VARIABLES)}
    for place in PLACES:
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_text(f"SECRET={planted[place]}\n", encoding="utf-8")
    return Context(folder, planted)
