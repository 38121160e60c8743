"""What a cluster or the storage of runs does not allow, in one sentence."""

from metaug_ray.errors import UserError


class ClusterError(UserError):
    """A Ray cluster that is not there, or is too small."""


class StorageError(UserError):
    """A run's folder that cannot be reached, read or written."""


class CheckpointError(UserError):
    """A checkpoint that cannot be written or read."""
