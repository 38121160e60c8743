"""The command line of `jobs/prepare_data.py`."""

import os

from pydantic_settings import BaseSettings

from metaug_ray.commands.base import command_line, run_job
from metaug_ray.config.prepare import PrepareSettings
from metaug_ray.names import readable


class _Command(PrepareSettings, BaseSettings):
    """Write images as a verified beton, with a manifest beside it.

    Every option may also be an environment variable, such as METAUG_SOURCE__PATH.
    """

    model_config = command_line("prepare_data.py")


def main(arguments: list[str]) -> int:
    """Prepares a beton as the arguments say; returns the exit status (1: the data, 2: the arguments)."""
    return run_job(
        _Command,
        PrepareSettings,
        arguments,
        _prepare,
        interrupted="nothing was left behind",
        variable="METAUG_SOURCE__PATH",
    )


def _prepare(settings: PrepareSettings) -> None:
    # FFCV compiles for seconds when it is imported; writing needs none of it.
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    from metaug_ray.data.prepare import prepare

    manifest = prepare(settings)
    beton = readable(str(settings.output))
    source = manifest.source
    part = f" (part {source['part']} of {int(source['part_of']):,})" if "part" in source else ""
    dealt = f", {len(manifest.shards):,} shards" if manifest.shards else ""
    what = f"{manifest.samples:,} images{part}, {len(manifest.classes)} classes{dealt}"
    print(f"{beton}: {what}, SHA-256 {manifest.sha256}")
