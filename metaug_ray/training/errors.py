"""What a run does not allow, in one sentence."""

from metaug_ray.errors import LostError, UserError


class TrainingError(UserError):
    """A run that cannot start, go on or be resumed as it was asked for."""


class DamagedError(TrainingError):
    """A run whose last checkpoint cannot be read.

    Args:
        message: what is wrong with it.
        checkpoint: its name.
    """

    def __init__(self, message: str, checkpoint: str = "") -> None:
        super().__init__(message)
        self.checkpoint = checkpoint


class RunLostError(TrainingError, LostError):
    """A run whose cluster is gone."""
