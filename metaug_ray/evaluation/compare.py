"""Runs compared, from what MLflow has of their evaluations: nothing is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from metaug_ray.config import CompareSettings
from metaug_ray.evaluation import comparison
from metaug_ray.evaluation.comparison import Judges, Row
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.tracking.evaluations import IMAGES, Evaluation, classifier_of, find_evaluations
from metaug_ray.tracking.runs import connect


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
        measured = sorted({name for evaluation in evaluations for name in evaluation.metrics})
        raise EvaluationError(
            f"metrics: no evaluation in experiment {settings.tracking.experiment!r} has one of "
            f"{', '.join(settings.metrics)}; measured are: {', '.join(measured) or 'none'}"
        )
    try:
        return comparison.write(rows, settings.metrics, settings.output)
    except OSError as error:
        raise EvaluationError(
            f"output: {settings.output} cannot be written ({error}); choose another folder"
        ) from error


def group(evaluations: Sequence[Evaluation], metrics: Sequence[str]) -> list[Row]:
    """One row for all seeds of one setting, judged alike; of a seed the newest evaluation counts.

    Args:
        evaluations: the newest first.
        metrics: that are wanted; evaluations without any of them are left out.

    Returns:
        Rows that were judged alike side by side, the best by the first metric last.
    """
    protocols: list[_Protocol] = []
    rows: dict[tuple[int, str, str, float], _Members] = {}
    for found in evaluations:
        measured = [metric for metric in metrics if metric in found.metrics]
        if not measured:
            continue
        judged = {name: found.judged[name] for name in (IMAGES, *(classifier_of(metric) for metric in measured))}
        protocol = next((known for known in protocols if known.takes(found.data, judged)), None)
        if protocol is None:
            protocol = _Protocol(found.data)
            protocols.append(protocol)
        protocol.add(found, judged)
        key = (protocols.index(protocol), found.variant, found.config, found.epochs)
        rows.setdefault(key, _Members(found)).add(found, measured)
    order = sorted(range(len(protocols)), key=lambda i: protocols[i].data)
    sorted_rows = sorted(rows.items(), key=lambda item: (order.index(item[0][0]), item[1].height(metrics)))
    return [members.row(protocols[key[0]].judges()) for key, members in sorted_rows]


@dataclass
class _Protocol:
    """Ways of judging that do not contradict one another: one for each classifier."""

    data: str
    judged: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)

    def takes(self, data: str, judged: Mapping[str, str]) -> bool:
        return data == self.data and all(self.judged.get(name, value) == value for name, value in judged.items())

    def add(self, found: Evaluation, judged: Mapping[str, str]) -> None:
        self.judged |= judged
        self.facts |= {name: value for name, value in found.protocol.items() if name.partition(".")[0] in judged}

    def judges(self) -> Judges:
        return Judges(self.data, self.judged, self.facts)


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
