"""Runs compared, from what MLflow has of their evaluations: nothing is trained."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from metaug_ray.config import CompareSettings
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.intervals import Interval, confidence_interval
from metaug_ray.evaluation.results import percent
from metaug_ray.tracking.evaluations import Evaluation, find_evaluations


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed alone.

    Attributes:
        data: what they were judged by.
        judged: hash of its contents and of how it was used.
        variant: of the method.
        config: hash of their settings and data.
        epochs: made.
        seeds: of the runs, in order.
        metrics: mean over the seeds and 95 % interval, by metric.
    """

    data: str
    judged: str
    variant: str
    config: str
    epochs: float
    seeds: Sequence[int]
    metrics: Mapping[str, Interval]


def compare(settings: CompareSettings) -> str:
    """Write a table and figures of all evaluated runs into the output folder; returns the table.

    Raises:
        EvaluationError: there is nothing to compare, or the folder cannot be written.
        TrackingError: MLflow cannot be reached.
    """
    evaluations = find_evaluations(settings.tracking.experiment, settings.tracking.uri)
    rows = group(evaluations, settings.metrics)
    if not rows:
        measured = sorted({name for evaluation in evaluations for name in evaluation.metrics})
        raise EvaluationError(
            f"metrics: no evaluation in experiment {settings.tracking.experiment!r} has one of "
            f"{', '.join(settings.metrics)}; measured are: {', '.join(measured) or 'none'}"
        )
    table = write_table(rows, settings.metrics)
    try:
        settings.output.mkdir(parents=True, exist_ok=True)
        (settings.output / "comparison.md").write_text(table, encoding="utf-8")
        for i, judged in enumerate(dict.fromkeys(row.judged for row in rows)):
            draw(
                [row for row in rows if row.judged == judged], settings.metrics, settings.output / f"comparison_{i}.png"
            )
    except OSError as error:
        raise EvaluationError(
            f"output: {settings.output} cannot be written ({error}); choose another folder"
        ) from error
    return table


def group(evaluations: Sequence[Evaluation], metrics: Sequence[str]) -> list[Row]:
    """One row for all seeds of one setting, of the newest evaluation of each run.

    Args:
        evaluations: the newest first.
        metrics: that are wanted; evaluations without any of them are left out.
    """
    groups: dict[tuple[str, str, str, str, float], dict[int, dict[str, float]]] = defaultdict(dict)
    for found in evaluations:
        if any(metric in found.metrics for metric in metrics):
            key = (found.data, found.judged, found.variant, found.config, found.epochs)
            groups[key].setdefault(found.seed, {})
            # Evaluations may have measured different things.
            groups[key][found.seed] = found.metrics | groups[key][found.seed]
    rows = []
    for (data, judged, variant, config, epochs), by_seed in groups.items():
        intervals = {}
        for metric in metrics:
            values = [measured[metric] for _, measured in sorted(by_seed.items()) if metric in measured]
            if values:
                intervals[metric] = confidence_interval(values)
        rows.append(Row(data, judged, variant, config, epochs, sorted(by_seed), intervals))
    return sorted(rows, key=lambda row: (row.data, row.judged, row.epochs, _height(row, metrics)))


def write_table(rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Markdown; in bold the best of each metric among runs that were judged alike. A hash tells namesakes apart."""
    names = [(row.variant, row.epochs, row.judged) for row in rows]
    judges = {row.judged: row.data for row in rows}
    header = ["judged by", "method", "epochs", "seeds", *metrics]
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for row in rows:
        alike = names.count((row.variant, row.epochs, row.judged)) > 1
        cells = [
            f"{row.data} ({row.judged[:6]})" if list(judges.values()).count(row.data) > 1 else row.data,
            f"{row.variant} ({row.config[:6]})" if alike else row.variant,
            f"{row.epochs:g}",
            str(len(row.seeds)),
        ]
        for metric in metrics:
            interval = row.metrics.get(metric)
            rivals = [
                other.metrics[metric].mean for other in rows if other.data == row.data and metric in other.metrics
            ]
            text = "" if interval is None else percent(interval)
            cells.append(f"**{text}**" if interval is not None and interval.mean == max(rivals) else text)
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "± is the half width of a 95 % interval over seeds of the training."]
    return "\n".join(lines) + "\n"


def draw(rows: Sequence[Row], metrics: Sequence[str], path: Path) -> None:
    """Means and intervals, one panel for each metric.

    Args:
        rows: judged by the same data.
        metrics: to show.
        path: PNG to write.
    """
    figure = Figure(figsize=(1 + 3.2 * len(metrics), 1.2 + 0.35 * len(rows)), layout="constrained")
    labels = [f"{row.variant}, {row.epochs:g} ep." for row in rows]
    for i, (axes, metric) in enumerate(zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True)):
        for height, row in enumerate(rows):
            interval = row.metrics.get(metric)
            if interval is not None:
                width = 0.0 if math.isnan(interval.half_width) else 100 * interval.half_width
                axes.errorbar(100 * interval.mean, height, xerr=width, fmt="o", capsize=3, color="tab:blue")
        axes.set_yticks(range(len(rows)), labels if i == 0 else [""] * len(rows))
        axes.set(xlabel="%", title=metric, ylim=(-0.6, len(rows) - 0.4))
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(rows[0].data, fontsize=9)
    figure.savefig(path, dpi=120)


def _height(row: Row, metrics: Sequence[str]) -> float:
    return row.metrics[metrics[0]].mean if metrics[0] in row.metrics else 0.0
