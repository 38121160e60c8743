"""Lines of a job's log."""

from collections.abc import Mapping, Sequence
from typing import Final

from metaug_ray.config.pretrain import KNN_ACCURACY, RANKME
from metaug_ray.runtime.words import duration

SPREAD: Final = "feature_spread"
"""Metric: the mean of the views' spreads; with `_` and the name of a view, its own."""


def progress_line(step: int, values: Mapping[str, float]) -> str:
    """What a person wants to know after `step` steps, from the loop's metrics."""
    parts = [f"epoch {values['progress/epoch']:.2f}", f"step {step:,}", f"loss {values['loss/total']:.4f}"]
    parts.append(
        f"d+ {values['similarity/positives_mean']:.3f} d- {values['similarity/negatives_mean']:.3f} "
        f"spread {values[SPREAD]:.2f}"
    )
    parts.append(
        f"{values['speed/images_per_second']:,.0f} images/s ({values['speed/images_per_second_per_worker']:,.0f} each)"
    )
    parts.append(f"data wait {values['data/wait_fraction']:.0%}")
    if values["progress/skipped_steps"]:
        parts.append(f"{values['progress/skipped_steps']:.0f} steps skipped")
    parts.append(f"{duration(3600 * values['progress/hours_left'])} left")
    return " | ".join(parts)


def evaluation_line(step: int, values: Mapping[str, float], encoders: Sequence[str]) -> str:
    """What the online evaluation after `step` steps found."""
    accuracy = f"kNN accuracy {values[KNN_ACCURACY]:.1%}, " if KNN_ACCURACY in values else ""
    each = ", ".join(f"{name} {values[f'rankme/{name}']:.1f}" for name in encoders)
    return f"{accuracy}RankMe {values[RANKME]:.1f} ({each}) after {step:,} steps"
