"""What MLflow does not allow, in one sentence."""

from metaug_ray.errors import UserError


class TrackingError(UserError):
    """MLflow cannot be reached, or does not take the run."""
