"""What a run does not allow, in one sentence."""

from metaug_ray.errors import LostError, UserError


class TrainingError(UserError):
    """A run that cannot start, go on or be resumed as it was asked for."""


class RunLostError(TrainingError, LostError):
    """A run whose cluster is gone."""
