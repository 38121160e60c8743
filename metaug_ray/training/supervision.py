"""A run that no person watches, but a sweep."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Supervision:
    """What whoever started a run wants of it.

    Attributes:
        measured: is given, from a thread of its own, what was measured after so many steps: values by metric.
        stop: ends the run, with `SystemExit`, when it is set; the same settings go on with it.
        tags: of its MLflow run.
    """

    measured: Callable[[int, Mapping[str, float]], None]
    stop: threading.Event
    tags: Mapping[str, str]
