"""What a sweep found, written: a report to read, a table to compute with, and figures."""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metaug_ray.config.sweep import Parameter, SweepSettings
from metaug_ray.evaluation.intervals import confidence_interval
from metaug_ray.evaluation.results import in_a_cell, markdown
from metaug_ray.runtime.words import counted, duration
from metaug_ray.tuning.comparison import comparison_section, named
from metaug_ray.tuning.figures.draw_all import draw_all
from metaug_ray.tuning.points import Point, RunState, TrialRun, common_epoch, of_group, runs_of
from metaug_ray.tuning.scales import measured, value_key, value_text

_BEST_SHOWN: Final = 5
_MOST_VALUES: Final = 12
_STATES: Final[Mapping[RunState, str]] = {
    "finished": "finished",
    "stopped": "stopped early",
    "failed": "failed",
    "running": "running",
    "pending": "to come",
}


@dataclass(frozen=True)
class Report:
    """All that a report is made of.

    Attributes:
        settings: of the sweep.
        points: of the search.
        finals: runs after it: those of the comparison, and refits.
        importances: of the parameters by group, from 0 to 1.
        seconds: that the sweep took, over all its starts.
        to_come: runs that have still to begin.
    """

    settings: SweepSettings
    points: Sequence[Point]
    finals: Sequence[TrialRun]
    importances: Mapping[str, Mapping[str, float]]
    seconds: float
    to_come: int = 0

    @property
    def runs(self) -> list[TrialRun]:
        """All of them, those of the search first."""
        return [*runs_of(self.points), *self.finals]


def write_report(report: Report, where: Path, *, draw: bool = True) -> list[Path]:
    """Write report.md, trials.csv and, if wanted, the figures.

    Args:
        report: what is written.
        where: folder; made if it is not there.
        draw: whether to draw figures; without, the report shows those that an earlier one left.

    Returns:
        The files that were written.

    Raises:
        OSError: the folder cannot be written.
    """
    where.mkdir(parents=True, exist_ok=True)
    figures = draw_all(report.settings, report.points, report.importances, where) if draw else []
    text, table = where / "report.md", where / "trials.csv"
    shown = figures or sorted(where.glob("*.png"))
    text.write_text(report_text(report, [figure.name for figure in shown]), encoding="utf-8")
    _write_csv(report, table)
    return [text, table, *figures]


def report_text(report: Report, figures: Sequence[str] = ()) -> str:
    """The report, in Markdown.

    Args:
        report: what is written.
        figures: names of the files that it shows, beside it.
    """
    sections = [
        f"# Sweep {report.settings.run.name}\n",
        *_unfinished(report),
        *_searched(report),
        *_budget(report),
        *_best(report),
        comparison_section(report.settings, report.points, report.finals),
        *_refits(report),
        *_importances(report),
        *_failed(report),
        *_figures(figures),
    ]
    return "\n".join(section for section in sections if section)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown(header, [list(map(in_a_cell, row)) for row in rows])


def _unfinished(report: Report) -> Iterator[str]:
    ended = sum(run.ended for run in report.runs)
    running = sum(run.state == "running" for run in report.runs)
    if running + report.to_come:
        count = counted(ended + running + report.to_come, "run")
        yield f"**The sweep is not finished: {ended} of {count} have ended.** What follows is of those.\n"


def _refits(report: Report) -> Iterator[str]:
    refits = [run for run in report.finals if run.purpose == "refit"]
    if not refits or report.settings.refit is None:
        return
    yield "## Refit\n"
    yield (
        f"The best point{' of each group' if report.settings.groups else ''} was trained once more, for "
        f"{counted(report.settings.refit.epochs, 'epoch')}. This is one run each, so no comparison.\n"
    )
    judged = sorted({name for run in refits for name in run.judged})
    rows = [
        [run.name, run.state, *(f"{100 * run.judged[name]:.1f} %" if name in run.judged else "" for name in judged)]
        for run in refits
    ]
    yield _table(["run", "state", *judged], rows)


def _searched(report: Report) -> Iterator[str]:
    settings = report.settings
    search = settings.search
    yield "## What was searched\n"
    draws = "Optuna's TPE" if search.kind == "tpe" else "chance"
    drawn = any(parameter.grid is None for parameter in settings.space.values())
    grid = any(parameter.grid is not None for parameter in settings.space.values())
    which = "Values outside the grids" if grid else "Values"
    how = f" {which} were drawn by {draws}, with the random seed {search.seed}." if drawn else ""
    yield (
        f"The runs are those of the main job on `{settings.run.data.beton}`. The value of a point is the mean over its "
        f"seeds of the last `{settings.run.health.best_metric}`, and the greatest is the best.{how}\n"
    )
    if settings.space:
        rows = [(f"`{name}`", *_described(parameter)) for name, parameter in settings.space.items()]
        yield _table(["parameter", "values", "only with"], rows)
    if settings.groups:
        yield "Each group was searched by itself:\n"
        groups = [(name, _settings(fixed) or "nothing else") for name, fixed in settings.groups.items()]
        yield _table(["group", "settings"], groups)


def _described(parameter: Parameter) -> tuple[str, str]:
    """The values of a parameter, and its condition."""
    values = [value_text(value) for value in parameter.values]
    if parameter.is_range:
        kind = "whole numbers " if parameter.integer is not None else ""
        how = ", evenly by the logarithm" if parameter.log_uniform is not None else ""
        text = f"{kind}from {values[0]} to {values[-1]}{how}"
    else:
        more = f" and {len(values) - _MOST_VALUES} more" if len(values) > _MOST_VALUES else ""
        text = f"{'each' if parameter.grid is not None else 'one'} of {', '.join(values[:_MOST_VALUES])}{more}"
    conditions = [f"{name} {' or '.join(map(value_text, allowed))}" for name, allowed in parameter.when.items()]
    return text, ", ".join(conditions)


def _settings(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value_text(value)}" for name, value in values.items())


def _budget(report: Report) -> Iterator[str]:
    settings = report.settings
    yield "## Budget\n"
    points = [
        f"{len(of_group(report.points, group))}{f' of {named(group)}' if group else ''}" for group in settings.variants
    ]
    among = f" ({', '.join(points)})" if settings.groups else ""
    yield (
        f"The sweep drew {counted(len(report.points), 'point')}{among}. Each has "
        f"{counted(settings.search.seeds, 'seed')}, and a run {counted(settings.run.training.epochs, 'epoch')}."
        f"{_asha(settings)}\n"
    )
    purposes = {"search": "search", "compare": "comparison", "refit": "refit"}
    rows = []
    for purpose, name in purposes.items():
        for state, words in _STATES.items():
            runs = [run for run in report.runs if (run.purpose, run.state) == (purpose, state)]
            if runs:
                epochs = sum(run.epochs for run in runs)
                rows.append((name, words, str(len(runs)), f"{epochs:g}", _hours(runs)))
    rows.append(("all", "", str(len(report.runs)), f"{sum(run.epochs for run in report.runs):g}", _hours(report.runs)))
    yield _table(["runs of the", "state", "runs", "epochs", "hours"], rows)
    yield _time(report)


def _asha(settings: SweepSettings) -> str:
    rungs = settings.rungs()
    if settings.search.asha is None or not rungs:
        return " No rule stopped runs early."
    after = f"epoch{'s' if len(rungs) > 1 else ''} {', '.join(map(str, rungs))}"
    return (
        f" Runs that were behind after {after} were stopped (asynchronous successive halving), so that one of "
        f"{settings.search.asha.factor} went on; they have no value."
    )


def _time(report: Report) -> str:
    hours = sum(run.hours for run in report.runs)
    if not hours or not report.seconds:
        return ""
    steps = sum(run.step_hours for run in report.runs)
    return (
        f"The sweep took {duration(report.seconds)}. Its runs took {duration(3600 * hours)}, that is, "
        f"{3600 * hours / report.seconds:.2g} at a time on average. Of the runs' time {steps / hours:.0%} was steps of "
        "training; the rest was their start, their checkpoints, their measurements and their end.\n"
    )


def _hours(runs: Sequence[TrialRun]) -> str:
    return f"{sum(run.hours for run in runs):.2f}"


def _best(report: Report) -> Iterator[str]:
    settings = report.settings
    yield "## Best points\n"
    for group in settings.variants:
        finished = [point for point in of_group(report.points, group) if not math.isnan(point.value)]
        finished.sort(key=lambda point: (-point.value, point.number))
        if group:
            yield f"### {named(group)}\n"
        if not finished:
            yield "No point has finished.\n"
            continue
        names = [name for name in settings.space if any(name in point.values for point in finished[:_BEST_SHOWN])]
        several = settings.search.seeds > 1
        header = ["point", settings.run.health.best_metric, *(["95 % interval over seeds"] if several else []), *names]
        rows = []
        for point in finished[:_BEST_SHOWN]:
            interval = confidence_interval([run.last for run in point.runs])
            width = "" if math.isnan(interval.half_width) else f"± {interval.half_width:.2g}"
            values = [value_text(point.values[name]) if name in point.values else "" for name in names]
            rows.append([str(point.number), measured(point.value), *([width] if several else []), *values])
        yield _table(header, rows)
        left = len(finished) - _BEST_SHOWN
        yield f"{counted(left, 'more point')} finished; `trials.csv` has all.\n" if left > 0 else ""
    if sum(not math.isnan(point.value) for point in report.points) > 1:
        yield "The best of many points is partly the luckiest: the value by which it was chosen overstates it.\n"


def _importances(report: Report) -> Iterator[str]:
    found = {group: of_group for group, of_group in report.importances.items() if of_group}
    if not found:
        return
    yield "## Importances\n"
    when = {group: common_epoch(of_group(report.points, group)) for group in found}
    epochs = " and ".join(f"{epoch}{f' ({named(group)})' if group else ''}" for group, epoch in when.items())
    yield (
        "This is the share of the variation that each parameter explains, by functional ANOVA, of the values after "
        f"epoch {epochs}, the last that half of the points have reached.\n"
    )
    names = sorted(
        {name for of_group in found.values() for name in of_group},
        key=lambda name: -sum(of_group.get(name, 0.0) for of_group in found.values()),
    )
    rows = [
        [f"`{name}`", *(f"{of_group[name]:.2f}" if name in of_group else "" for of_group in found.values())]
        for name in names
    ]
    yield _table(["parameter", *(named(group) if group else "importance" for group in found)], rows)


def _failed(report: Report) -> Iterator[str]:
    failed = [run for run in report.runs if run.state == "failed"]
    if failed:
        yield "## Failed runs\n"
        yield _table(["run", "epochs", "reason"], [[run.name, f"{run.epochs:g}", run.reason] for run in failed])


def _figures(names: Sequence[str]) -> Iterator[str]:
    if names:
        yield "## Figures\n"
    for name in names:
        yield f"![{name.removesuffix('.png').replace('_', ' ')}]({name})\n"


def _write_csv(report: Report, path: Path) -> None:
    """A line for each run: all that the report is made of. Values are JSON where they are no text."""
    names = list(report.settings.space)
    judged = sorted({name for run in report.runs for name in run.judged})
    values = {(point.group, point.number): point.values for point in report.points}
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        columns = [
            "run",
            "group",
            "point",
            "seed",
            "purpose",
            "state",
            "reason",
            "epochs",
            "value",
            "hours",
            "step_hours",
        ]
        writer.writerow([*columns, *names, *judged, "mlflow_run"])
        for run in report.runs:
            of_point = values.get((run.group, run.point), {})
            value = run.last if run.series else ""
            of_run = [run.name, run.group, run.point, run.seed, run.purpose, run.state, run.reason]
            parameters = [value_key(of_point[name]) if name in of_point else "" for name in names]
            accuracies = [run.judged.get(name, "") for name in judged]
            writer.writerow(
                [*of_run, run.epochs, value, run.hours, run.step_hours, *parameters, *accuracies, run.mlflow_run or ""]
            )
