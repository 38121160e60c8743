"""Secrets of a made-up user, and what they were written into."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import psutil

SECRETS: Final = {
    "RAY_AUTH_TOKEN": "planted0ray0token0planted0ray0token0planted0ray0token0planted0ra",
    "MLFLOW_TRACKING_PASSWORD": "planted-password-of-mlflow",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+key/of/aws",
}
"""By the variables that hold them."""
ENVIRONMENT: Final = {"RAY_AUTH_MODE": "token", "MLFLOW_TRACKING_USERNAME": "admin", **SECRETS}
"""All that such a user sets."""


def leaks(*places: Path | str) -> list[str]:
    """Where a secret stands: in a text, in the bytes of a file or of any below a folder, or in a command line."""
    found = [f"{name} in {where}" for where, content in _contents(places) for name in _held(content)]
    return sorted({*found, *(f"{name} in the arguments of a process" for name in _held(_command_lines()))})


def _contents(places: tuple[Path | str, ...]) -> Iterator[tuple[str, bytes]]:
    for place in places:
        if isinstance(place, str):
            yield "the output", place.encode()
            continue
        for file in (place, *place.rglob("*")):
            if file.is_file() and not file.is_symlink():
                yield str(file), file.read_bytes()


def _command_lines() -> bytes:
    lines = (process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"]))
    return "\n".join(" ".join(line) for line in lines).encode(errors="replace")


def _held(content: bytes) -> list[str]:
    return [name for name, secret in SECRETS.items() if secret.encode() in content]
