"""What can go wrong in judging and publishing encoders."""


class EvaluationError(Exception):
    """An evaluation or registration that cannot be done as asked."""


def first_line(error: BaseException) -> str:
    """What an error says, without the advice below it."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
