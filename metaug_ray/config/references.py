"""How a user names an encoder."""

import re
from typing import Annotated, Final

from pydantic import AfterValidator

from metaug_ray.config.base import RUN_NAME

EARLIER: Final = "choose an earlier checkpoint, if one is whole (run:NAME@best, run:NAME@checkpoint_NUMBER)"
"""Advice where a run's last one cannot be used."""

_ENCODER: Final = re.compile(rf"(run|random):{RUN_NAME}(@(last|best|checkpoint_\d+))?|models:/[^/@]+([/@][^/@]+)?")


def _check(encoder: str) -> str:
    if not _ENCODER.fullmatch(encoder):
        raise ValueError(
            f"got {encoder!r}; expected run:NAME, run:NAME@best, run:NAME@checkpoint_NUMBER, random:NAME, "
            "models:/NAME@ALIAS or models:/NAME/VERSION"
        )
    if encoder.startswith("models:/") and not re.search(r"[/@]", encoder.removeprefix("models:/")):
        raise ValueError(f"{encoder} names no version; add @champion, @latest-good or /VERSION")
    return encoder


EncoderReference = Annotated[str, AfterValidator(_check)]
"""`run:NAME`, `run:NAME@best`, `random:NAME` or `models:/NAME@alias`."""
