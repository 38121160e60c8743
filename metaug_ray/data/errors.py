"""What the user's data can get wrong."""


class DataError(Exception):
    """Data, a file or a place that cannot be used; the message says what was wrong and what to do."""
