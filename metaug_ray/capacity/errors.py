"""What can go wrong in planning."""

from metaug_ray.errors import UserError


class PlanError(UserError):
    """Something that is needed to plan is not known."""
