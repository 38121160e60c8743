"""What the user's data can get wrong."""

from metaug_ray.errors import UserError


class DataError(UserError):
    """Data, a file or a place that cannot be used; the message says what was wrong and what to do."""
