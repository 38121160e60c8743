"""What all commands answer with a sentence."""

from metaug_ray.names import readable


class UserError(Exception):
    """Something that the user, or who runs the cluster, can mend; the message says what was wrong and what to do."""

    def __init__(self, message: str) -> None:
        # A file's name may hold bytes that cannot be printed, and a traceback would take the sentence's place.
        super().__init__("\n".join(map(readable, message.split("\n"))))
