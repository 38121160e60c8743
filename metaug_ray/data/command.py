"""The command line of `jobs/prepare_data.py`."""

import os
import sys

from pydantic_settings import BaseSettings

from metaug_ray.command_line import CommandError, command_line, interrupt_on_sigterm, parse
from metaug_ray.config import PrepareSettings
from metaug_ray.data.errors import DataError


class _Command(PrepareSettings, BaseSettings):
    """Write images as a verified beton, with a manifest beside it.

    Every option may also be an environment variable, such as METAUG_SOURCE__PATH.
    """

    model_config = command_line("prepare_data.py")


def main(arguments: list[str]) -> int:
    """Prepares a beton as the arguments say; returns the exit status (1: the data, 2: the arguments)."""
    interrupt_on_sigterm()
    try:
        settings = parse(_Command, arguments, "METAUG_SOURCE__PATH")
    except CommandError as error:
        print(f"prepare_data.py: {error}", file=sys.stderr)
        return 2
    # FFCV compiles for seconds when it is imported; writing needs none of it, and wrong arguments are answered before.
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    from metaug_ray.data.prepare import prepare

    try:
        manifest = prepare(settings)
    except DataError as error:
        print(f"prepare_data.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("prepare_data.py: interrupted; nothing was left behind", file=sys.stderr)
        return 130
    print(f"{settings.output}: {manifest.samples:,} images, {len(manifest.classes)} classes, SHA-256 {manifest.sha256}")
    return 0
