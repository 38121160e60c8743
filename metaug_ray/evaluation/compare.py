"""Runs compared, from what MLflow has of their evaluations: nothing is trained."""

from collections.abc import Sequence

from metaug_ray.config.compare import CompareSettings
from metaug_ray.evaluation import comparison_report
from metaug_ray.evaluation.comparison_report import Judges, Row
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.tracking.connection import connect
from metaug_ray.tracking.evaluations import Evaluation, classifier_of, find_evaluations
from metaug_ray.tracking.protocol import IMAGES


def compare(settings: CompareSettings) -> str:
    """Write a table and figures of all evaluated runs into the output folder; returns the table.

    Raises:
        EvaluationError: there is nothing to compare, or the folder cannot be written.
        TrackingError: MLflow cannot be reached.
    """
    connect(settings.tracking.uri, new=False)
    evaluations = find_evaluations(settings.tracking.experiment, settings.tracking.uri)
    rows = group(evaluations, settings.metrics)
    if not rows:
        raise EvaluationError(
            f"metrics: no evaluation in experiment {settings.tracking.experiment!r} has one of "
            f"{', '.join(settings.metrics)}; measured are: {', '.join(_accuracies(evaluations)) or 'none'}"
        )
    shown = [metric for metric in settings.metrics if any(metric in row.values for row in rows)]
    missing = [metric for metric in settings.metrics if metric not in shown]
    others = [metric for metric in _accuracies(evaluations) if metric not in shown]
    remarks = [f"not measured: {', '.join(missing)}"] if missing else []
    remarks += [f"measured too (--metrics shows them): {', '.join(others)}"] if others else []
    try:
        return comparison_report.write(rows, shown, settings.output, remarks)
    except OSError as error:
        raise EvaluationError(
            f"output: {settings.output} cannot be written ({error}); choose another folder"
        ) from error


def _accuracies(evaluations: Sequence[Evaluation]) -> list[str]:
    """Names of all that was measured."""
    names = {name for evaluation in evaluations for name in evaluation.metrics}
    return sorted(name for name in names if not name.endswith("_interval"))


def group(evaluations: Sequence[Evaluation], metrics: Sequence[str]) -> list[Row]:
    """One row for all seeds of one setting, judged alike; of a seed the newest evaluation counts.

    Args:
        evaluations: the newest first.
        metrics: that are wanted; evaluations without any of them are left out.

    Returns:
        Rows that were judged alike side by side, the best by the first metric last.
    """
    judges: list[Judges] = []
    rows: dict[tuple[int, str, str, float], _Members] = {}
    for found in evaluations:
        measured = [metric for metric in metrics if metric in found.metrics]
        if not measured:
            continue
        classifiers = {IMAGES, *map(classifier_of, measured)}
        number = next((n for n, known in enumerate(judges) if known.agree(found, classifiers)), len(judges))
        if number == len(judges):
            judges.append(Judges(found.data))
        judges[number].add(found, classifiers)
        key = (number, found.variant, found.config, found.epochs)
        rows.setdefault(key, _Members(found)).add(found, measured)
    order = sorted(range(len(judges)), key=lambda number: judges[number].data)
    sorted_rows = sorted(rows.items(), key=lambda item: (order.index(item[0][0]), item[1].height(metrics)))
    return [members.row(judges[key[0]]) for key, members in sorted_rows]


class _Members:
    """Evaluations of runs that differ in their seed alone."""

    def __init__(self, first: Evaluation) -> None:
        self._first = first
        self._values: dict[str, dict[int, float]] = {}
        self._runs: dict[int, str] = {}

    def add(self, found: Evaluation, metrics: Sequence[str]) -> None:
        self._runs.setdefault(found.seed, found.run)
        for metric in metrics:
            self._values.setdefault(metric, {}).setdefault(found.seed, found.metrics[metric])

    def height(self, metrics: Sequence[str]) -> float:
        values = self._values.get(metrics[0], {}).values()
        return sum(values) / len(values) if values else 0.0

    def row(self, judges: Judges) -> Row:
        first = self._first
        values = {metric: dict(sorted(by_seed.items())) for metric, by_seed in self._values.items()}
        runs = dict(sorted(self._runs.items()))
        return Row(judges, first.variant, first.config, first.training, first.networks, first.epochs, runs, values)
