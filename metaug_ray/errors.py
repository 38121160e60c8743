"""What all commands answer with a sentence."""


class UserError(Exception):
    """Something that the user, or who runs the cluster, can mend; the message says what was wrong and what to do."""
