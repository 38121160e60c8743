"""Numbers, times and errors in words."""


def counted(count: float, thing: str) -> str:
    """A number of things: 1 epoch, 2.5 epochs, 1,281,167 images."""
    number = f"{count:,.2f}".rstrip("0").rstrip(".")
    return f"{number} {thing}{'' if count == 1 else 's'}"


def duration(seconds: float) -> str:
    """Seconds as people read them: 3 d 4 h, 2 h 05 min, 4 min 10 s, 12 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def first_line(error: BaseException) -> str:
    """Kind of an error and the first line of what it says; of a worker's traceback, the last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return repr(error)
    return f"{type(error).__name__}: {lines[-1 if 'Traceback' in lines[0] else 0][:300]}"
