"""A comparison, written: a table to read, one to compute with, and figures."""

import csv
import math
from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from metaug_ray.evaluation.intervals import Interval, confidence_interval
from metaug_ray.evaluation.labels import drawing, shown
from metaug_ray.evaluation.results import in_a_cell, markdown, percent
from metaug_ray.tracking.evaluations import Evaluation, classifier_of

_MOST_FACTS = 6


@dataclass
class Judges:
    """What rows that can be compared were judged by: evaluations that do not contradict one another.

    Attributes:
        data: names of the betons.
        judged: hash of how they were used, by classifier.
        facts: the settings of it.
    """

    data: str
    judged: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)

    def agree(self, found: Evaluation, classifiers: Set[str]) -> bool:
        """Whether an evaluation judged as those before, as far as these classifiers go."""
        return all(self.judged.get(name, found.judged[name]) == found.judged[name] for name in classifiers)

    def add(self, found: Evaluation, classifiers: Set[str]) -> None:
        """Take one of the same kind; other classifiers of it are not looked at."""
        self.judged |= {name: found.judged[name] for name in classifiers}
        self.facts |= {name: value for name, value in found.protocol.items() if name.partition(".")[0] in classifiers}


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed alone, judged alike.

    Attributes:
        judges: of them.
        variant: of the method.
        config: hash of their settings and data.
        training: those settings.
        networks: in words.
        epochs: made.
        runs: names by seed.
        values: shares by metric and seed.
    """

    judges: Judges
    variant: str
    config: str
    training: Mapping[str, str]
    networks: str
    epochs: float
    runs: Mapping[int, str]
    values: Mapping[str, Mapping[int, float]]

    def interval(self, metric: str) -> Interval | None:
        """Mean over the seeds and 95 % interval."""
        values = self.values.get(metric)
        return confidence_interval(list(values.values())) if values else None


def write(rows: Sequence[Row], metrics: Sequence[str], folder: Path, remarks: Sequence[str] = ()) -> str:
    """Write comparison.md, comparison.csv and a figure for each kind of judging; returns the first's text.

    Args:
        rows: those that were judged alike side by side.
        metrics: to show.
        folder: made where it is not there.
        remarks: to stand below the table.

    Raises:
        OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    judges, judge_notes = tell_apart(
        [(row.judges.data, tuple(sorted(row.judges.judged.items())), row.judges.facts) for row in rows]
    )
    methods, method_notes = tell_apart([(row.variant, row.config, row.training) for row in rows])
    text = _markdown(rows, metrics, judges, methods, [*judge_notes, *method_notes, *remarks])
    (folder / "comparison.md").write_text(text, encoding="utf-8")
    _write_csv(rows, metrics, judges, folder / "comparison.csv")
    for i, judge in enumerate(dict.fromkeys(judges)):
        chosen = [n for n, name in enumerate(judges) if name == judge]
        labels = [f"{methods[n]}, {rows[n].epochs:g} ep.\n{rows[n].networks}" for n in chosen]
        path = folder / f"comparison_{i}.png"
        with drawing(path.name), shown([judge]) as titles:
            draw([rows[n] for n in chosen], labels, metrics, titles[0], path)
    return text


def tell_apart(named: Sequence[tuple[str, Hashable, Mapping[str, str]]]) -> tuple[list[str], list[str]]:
    """Number namesakes that are not the same.

    Args:
        named: name, identity and settings of each thing.

    Returns:
        Their names, numbered where one name stands for several identities; and for each of those a line that says in
        which settings they differ.
    """
    identities: dict[str, dict[Hashable, Mapping[str, str]]] = {}
    for name, identity, facts in named:
        identities.setdefault(name, {}).setdefault(identity, facts)
    names, notes = [], []
    for name, identity, _ in named:
        known = list(identities[name])
        names.append(f"{name} [{known.index(identity) + 1}]" if len(known) > 1 else name)
    for name, members in identities.items():
        every = sorted({setting for facts in members.values() for setting in facts})
        differing = [setting for setting in every if len({facts.get(setting) for facts in members.values()}) > 1]
        for i, facts in enumerate(members.values() if len(members) > 1 else (), 1):
            shown = [f"{setting} {facts.get(setting, '-')}" for setting in differing[:_MOST_FACTS]]
            more = [f"and {len(differing) - _MOST_FACTS} more"] if len(differing) > _MOST_FACTS else []
            notes.append(f"{name} [{i}]: {', '.join(shown + more)}")
    return names, notes


def _markdown(
    rows: Sequence[Row], metrics: Sequence[str], judges: Sequence[str], methods: Sequence[str], notes: Sequence[str]
) -> str:
    """In bold the best of each metric among rows that were judged alike."""
    judges = [in_a_cell(judge) for judge in judges]
    header = ["judged by", "encoder", "method", "epochs", "runs", *metrics]
    table = []
    for row, judge, method in zip(rows, judges, methods, strict=True):
        cells = [judge, row.networks, method, f"{row.epochs:g}", str(len(row.runs))]
        for metric in metrics:
            interval = row.interval(metric)
            if interval is None:
                cells.append("")
                continue
            rivals = [other.interval(metric) for other in rows if other.judges == row.judges]
            means = [rival.mean for rival in rivals if rival is not None]
            text = percent(interval)
            count = len(row.values[metric])
            text += "" if count == len(row.runs) else f" (of {count})"
            cells.append(f"**{text}**" if interval.mean == max(means) > min(means) else text)
        table.append(cells)
    lines = [
        markdown(header, table),
        "± is the half width of a 95 % interval over seeds of the training; a single run has none.",
        *(f"- {note}" for note in notes),
    ]
    return "\n".join(lines) + "\n"


def _write_csv(rows: Sequence[Row], metrics: Sequence[str], judges: Sequence[str], path: Path) -> None:
    """A line for each run and metric: all that the table is made of."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["judged_by", "judged", "encoder", "method", "config", "epochs", "run", "seed", "metric", "value"]
        )
        for row, judge in zip(rows, judges, strict=True):
            for metric in metrics:
                judged = row.judges.judged.get(classifier_of(metric))
                for seed, value in row.values.get(metric, {}).items():
                    of_row: list[Any] = [judge, judged, row.networks, row.variant, row.config, f"{row.epochs:g}"]
                    writer.writerow([*of_row, row.runs[seed], seed, metric, value])


def draw(rows: Sequence[Row], labels: Sequence[str], metrics: Sequence[str], title: str, path: Path) -> None:
    """Means and intervals, one panel for each metric, one line for each row, in their order.

    Args:
        rows: that were judged alike.
        labels: of them.
        metrics: to show.
        title: what they were judged by.
        path: PNG to write.
    """
    figure = Figure(figsize=(2 + 3.2 * len(metrics), 1.2 + 0.45 * len(rows)), layout="constrained")
    for i, (axes, metric) in enumerate(zip(figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True)):
        for height, row in enumerate(rows):
            interval = row.interval(metric)
            if interval is not None:
                width = 0.0 if math.isnan(interval.half_width) else 100 * interval.half_width
                axes.errorbar(100 * interval.mean, height, xerr=width, fmt="o", capsize=3, color="tab:blue")
        axes.set_yticks(range(len(rows)), labels if i == 0 else [""] * len(rows), fontsize=8)
        axes.set(xlabel="%", title=metric, ylim=(len(rows) - 0.4, -0.6))
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle(title, fontsize=9)
    figure.savefig(path, dpi=120)
