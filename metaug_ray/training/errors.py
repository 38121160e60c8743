"""What a user did, or a cluster lacks, in one sentence."""

from metaug_ray.errors import UserError


class TrainingError(UserError):
    """A run that cannot start, go on or be resumed as it was asked for."""


def first_line(error: BaseException) -> str:
    """Kind of an error and the first line of what it says; of a worker's traceback, the last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return repr(error)
    return f"{type(error).__name__}: {lines[-1 if 'Traceback' in lines[0] else 0][:300]}"
