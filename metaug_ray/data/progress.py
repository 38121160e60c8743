"""How long steps report."""

import sys
from typing import Any


def progress_options(unit: str) -> dict[str, Any]:
    """Options of tqdm: a live bar at a terminal, and a line every ten seconds in a job's log."""
    scaled = {"unit_scale": True, "unit_divisor": 1024} if unit == "B" else {}
    return {"unit": unit, "mininterval": 0.1 if sys.stderr.isatty() else 10.0, **scaled}


def readable_size(count: float) -> str:
    """Bytes as people write them: 161.1 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
