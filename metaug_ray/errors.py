"""What all commands answer with a sentence."""

from typing import Final

from metaug_ray.addresses import masked
from metaug_ray.names import readable

TEMPORARY: Final = 75
"""Exit status of a command that was ended by a :class:`LostError`: EX_TEMPFAIL of sysexits.h."""


class UserError(Exception):
    """Something that the user, or who runs the cluster, can mend; the message says what was wrong and what to do."""

    def __init__(self, message: str) -> None:
        # A file's name may hold bytes that cannot be printed, and a traceback would take the sentence's place. What a
        # library says may hold an address with a password.
        super().__init__("\n".join(map(readable, masked(message).split("\n"))))


NOT_BEGUN: Final = 69
"""Exit status of a command that was ended by a :class:`NotBegunError`: EX_UNAVAILABLE of sysexits.h."""


class LostError(UserError):
    """Something that was there is gone, and may come back: the same command may go on then."""

    status = TEMPORARY


class NotBegunError(LostError):
    """What was lost has not come back yet: nothing was done."""

    status = NOT_BEGUN
