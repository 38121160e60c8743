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


GO_BACK: Final = "Restore it from a backup; or delete this folder, and the checkpoint before it counts as the last"
"""What to do about a checkpoint that cannot be read, where nobody does it for the user."""


class DamagedCheckpointError(CheckpointError):
    """A checkpoint whose files are not those that were written: the one before it may be whole."""
