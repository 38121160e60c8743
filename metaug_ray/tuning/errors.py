"""What may go wrong with a sweep."""

from metaug_ray.errors import UserError


class TuningError(UserError):
    """A sweep cannot begin, go on or end as it was asked to."""
