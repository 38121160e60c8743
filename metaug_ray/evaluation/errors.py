"""What can go wrong in judging and publishing encoders."""

from metaug_ray.errors import UserError


class EvaluationError(UserError):
    """An evaluation or registration that cannot be done as asked."""
