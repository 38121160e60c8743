"""MLflow's run of what has a folder on the storage: opened, and told how it ended."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from metaug_ray.config.base import RUN_NAME
from metaug_ray.config.tracking import TrackingSettings
from metaug_ray.names import quoted
from metaug_ray.runtime.errors import StorageError
from metaug_ray.runtime.stored_folder import StoredFolder
from metaug_ray.tracking.records import RunStatus
from metaug_ray.tracking.runs import RunTracker

_HOME: Final = Path("~/metaug_ray/tracking").expanduser()
"""Where journals lie that cannot lie on an object store."""


def open_tracker(settings: TrackingSettings, folder: StoredFolder, key: str) -> RunTracker:
    """Open the MLflow run of a folder's run or sweep, whose journal lies in the folder where that is local.

    Args:
        settings: MLflow.
        folder: whose name the run has.
        key: by which a restart finds it again.

    Raises:
        StorageError: the key names no folder.
        TrackingError: MLflow cannot be reached.
    """
    if not re.fullmatch(RUN_NAME, key):
        raise StorageError(f"{folder.location}: its record has the id {quoted(key)}, which metaug_ray never wrote")
    journal = Path(folder.location, "tracking") if folder.local else _HOME / key
    return RunTracker(settings.uri, settings.experiment, folder.name, key, journal)


@contextmanager
def told_at_the_end(tell: Callable[[RunStatus, float], None]) -> Iterator[None]:
    """Tell in what state something ended, however it did, and for how many seconds MLflow may then be waited for."""
    status: RunStatus = "FINISHED"
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except BaseException:
        status = "FAILED"
        raise
    finally:
        # A job that is stopped has three seconds; what does not arrive now arrives at the next start.
        tell(status, 60.0 if status == "FINISHED" else 2.0)
