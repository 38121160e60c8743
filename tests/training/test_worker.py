"""What a failure of one worker, as it begins, means for the run."""

from pathlib import Path

import pytest
import torch.distributed as dist

from metaug_ray.data.errors import DataError
from metaug_ray.errors import UserError
from metaug_ray.runtime.errors import StorageError
from metaug_ray.training.loop import StoppedError
from metaug_ray.training.worker import _agreed, _PassingError
from tests.ranks import run_ranks


def caused_by(cause: OSError) -> DataError:
    error = DataError("the beton cannot be copied")
    error.__cause__ = cause
    return error


FAILURES: dict[str, tuple[UserError, type[Exception]]] = {
    "a setting": (UserError("a wrong setting"), StoppedError),
    "a storage that is full": (StorageError("no room"), _PassingError),
    "a network": (caused_by(ConnectionResetError()), _PassingError),
    "a file that is not there": (caused_by(FileNotFoundError()), StoppedError),
}


def _fail(failure: UserError | None) -> None:
    if failure is not None:
        raise failure


def raised(rank: int) -> dict[str, tuple[type[BaseException] | None, str]]:
    """By what fails on the second rank: what both raise."""
    group = dist.group.WORLD
    assert group is not None
    found: dict[str, tuple[type[BaseException] | None, str]] = {}
    for name, (failure, _) in FAILURES.items():
        with pytest.raises((StoppedError, _PassingError)) as caught, _agreed(group):
            _fail(failure if rank == 1 else None)
        found[name] = (caught.type, str(caught.value))
    with _agreed(group):
        found["nothing"] = (None, "")
    return found


def test_all_workers_stop_where_one_fails_for_good_and_try_again_otherwise(tmp_path: Path) -> None:
    for seen in run_ranks(2, tmp_path, raised):
        for name, (failure, expected) in FAILURES.items():
            kind, message = seen[name]
            assert kind is expected, name
            assert message.startswith("worker 1 on ")
            assert str(failure) in message
        assert seen["nothing"] == (None, "")
