"""What a cluster or the storage of runs does not allow, in one sentence."""

from metaug_ray.errors import LostError, UserError


class ClusterError(UserError):
    """A Ray cluster that is not there, or is too small."""


class ClusterLostError(ClusterError, LostError):
    """A Ray cluster that was there, or that does not come up on a busy machine."""


class StorageError(UserError):
    """A run's folder that cannot be reached, read or written."""


class CheckpointError(UserError):
    """A checkpoint that cannot be written or read."""
