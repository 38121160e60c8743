"""What a cluster or the storage of runs does not allow, in one sentence."""

from typing import Final

from metaug_ray.errors import LostError, UserError


class ClusterError(UserError):
    """A Ray cluster that is not there, or is too small."""


class ClusterLostError(ClusterError, LostError):
    """A Ray cluster that was there, or that does not come up on a busy machine."""


class StorageError(UserError):
    """A run's folder that cannot be reached, read or written."""


class CheckpointError(UserError):
    """A checkpoint that cannot be written or read."""


RESTORE: Final = "Restore it from a backup, or use an earlier checkpoint"
"""What to do about a checkpoint that cannot be read, where nobody does it for the user."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose files are not those that were written: an earlier one may be whole.

    Args:
        what: its folder, and what is wrong with it.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"{self.what}. {RESTORE}"
