"""One line of a job's log."""


def progress_line(step: int, values: dict[str, float]) -> str:
    """What a person wants to know after `step` steps, from the loop's metrics."""
    parts = [f"epoch {values['progress/epoch']:.2f}", f"step {step:,}", f"loss {values['loss/total']:.4f}"]
    parts.append(
        f"d+ {values['similarity/positives_mean']:.3f} d- {values['similarity/negatives_mean']:.3f} "
        f"spread {values['feature_spread']:.2f}"
    )
    parts.append(
        f"{values['speed/images_per_second']:,.0f} images/s ({values['speed/images_per_second_per_worker']:,.0f} each)"
    )
    parts.append(f"data wait {values['data/wait_fraction']:.0%}")
    if values["progress/skipped_steps"]:
        parts.append(f"{values['progress/skipped_steps']:.0f} steps skipped")
    parts.append(f"{duration(3600 * values['progress/hours_left'])} left")
    return " | ".join(parts)


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
