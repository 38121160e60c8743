"""What can go wrong in judging and publishing encoders."""


class EvaluationError(Exception):
    """An evaluation or registration that cannot be done as asked."""
