"""That a cluster is not fit for a run, in one sentence."""

from metaug_ray.errors import UserError


class PreflightError(UserError):
    """There are faults, which the table told."""
