"""The best point of each group, compared on new seeds: paired differences, and what may be said of them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from metaug_ray.config.sweep import SweepSettings
from metaug_ray.evaluation.intervals import Interval, confidence_interval
from metaug_ray.evaluation.results import in_a_cell, percent
from metaug_ray.runtime.words import counted
from metaug_ray.tuning.points import Point, TrialRun


class Difference(NamedTuple):
    """A group minus the first one, by seed."""

    group: str
    first: str
    metric: str
    pairs: int
    """seeds that both have"""
    interval: Interval | None
    """of the mean difference; None without a pair"""

    @property
    def shown(self) -> bool:
        """Whether the 95 % interval leaves 0 out."""
        found = self.interval
        return found is not None and abs(found.mean) > found.half_width  # NaN, of a single pair, is no interval


def differences(points: Sequence[Point]) -> list[Difference]:
    """Of each group to the first one, by metric.

    Student's interval of the paired differences, as of `scipy.stats.ttest_rel`: what a seed does to both groups, by the
    initial weights and the order of the images, is no part of it.

    Args:
        points: of the final comparison, one for each group.
    """
    metrics = judged_metrics(points)
    found = []
    for point in points[1:]:
        for metric in metrics:
            base, other = (_by_seed(member, metric) for member in (points[0], point))
            paired = [other[seed] - base[seed] for seed in sorted(base.keys() & other.keys())]
            interval = confidence_interval(paired) if paired else None
            found.append(Difference(point.group, points[0].group, metric, len(paired), interval))
    return found


def judged_metrics(points: Sequence[Point]) -> list[str]:
    """All that was judged, what is seen last."""
    names = {name for point in points for run in point.runs for name in run.judged}
    return sorted(names, key=lambda name: (name.startswith("seen/"), name))


def comparison_section(settings: SweepSettings, points: Sequence[Point]) -> str:
    """The comparison in Markdown: who judged, a table of means, paired differences, and what the groups were given.

    Args:
        settings: of the sweep.
        points: all of the sweep; empty text comes back where none is of a final comparison.
    """
    final = [point for group in settings.variants for point in points if point.compared and point.group == group]
    if not any(run.judged for point in final for run in point.runs):
        return ""
    parts = ["## Comparison", _judges(settings, final, points), _means(final)]
    if len(final) > 1:
        parts += [f"### Differences to {_named(final[0].group)}", _differences(final)]
        parts += ["### Fairness", _fairness(settings, points, final)]
    return "\n\n".join(parts) + "\n"


def _judges(settings: SweepSettings, final: Sequence[Point], points: Sequence[Point]) -> str:
    run, compare = settings.run, settings.compare
    searched = {run.seed for point in points if not point.compared for run in point.runs}
    seeds = {run.seed for point in final for run in point.runs}
    new = f"seeds {_listed(seeds)}"
    old = seeds & searched
    of_search = f"of which the search had {_listed(old)}" if old else "which the search did not have"
    text = f"The best point of {'each group' if len(final) > 1 else 'the search'} was trained again with {new}, {of_search}."
    decided = f"`{run.health.knn.beton}`" if run.health.knn.beton else f"the training images, `{run.data.beton}`"
    text += f" The images whose labels decided which point is best are of {decided}."
    if compare is None:
        return text
    text += (
        f" The images that judge, in the lines that begin with `judge/`, are of `{compare.judge}`; their labels decided "
        f"nothing. Classifiers learnt from the labels of `{compare.train or run.data.beton}`."
    )
    if compare.seen:
        text += (
            f" The lines that begin with `seen/` are judged by `{compare.seen}`. These images are called seen, as earlier "
            "results chose by them; the lines are there to be compared with such results, and prove nothing."
        )
    return text


def _means(final: Sequence[Point]) -> str:
    groups = [_named(point.group) for point in final]
    lines = [f"| judged by | {' | '.join(groups)} |", "|---" * (len(groups) + 1) + "|"]
    for metric in judged_metrics(final):
        cells = []
        for point in final:
            values = list(_by_seed(point, metric).values())
            count = "" if len(values) == len(point.runs) else f" (of {len(values)})"
            cells.append(f"{percent(confidence_interval(values))}{count}" if values else "")
        lines.append(f"| {metric} | {' | '.join(cells)} |")
    seeds = f"Means over {_range(len(point.runs) for point in final)} runs"
    return "\n".join(lines) + f"\n\n{seeds} of each, with the half widths of their 95 % intervals (Student's t)."


def _differences(final: Sequence[Point]) -> str:
    lines = ["| group | judged by | difference in points | pairs | what it says |", "|---|---|---|---|---|"]
    for found in differences(final):
        cells = [_named(found.group), found.metric, _points(found.interval), str(found.pairs), _said(found)]
        lines.append(f"| {' | '.join(cells)} |")
    explained = (
        "A difference is that of two runs of one seed, in percentage points, and its mean is over the seeds that both "
        "groups have. The interval is that of Student's t at 95 %. Where it contains 0, no difference was shown, which "
        "does not show that there is none. Each interval is for itself: of twenty without a true difference one leaves 0 "
        "out by chance."
    )
    return "\n".join(lines) + "\n\n" + explained


def _points(interval: Interval | None) -> str:
    if interval is None:
        return ""
    width = "" if math.isnan(interval.half_width) else f" ± {100 * interval.half_width:.2f}"
    return f"{100 * interval.mean:+.2f}{width}"


def _said(found: Difference) -> str:
    if found.interval is None:
        return "No seed is common to both."
    if found.pairs == 1:
        return "One pair has no interval: no difference was shown."
    if not found.shown:
        return "The interval contains 0: no difference was shown."
    return f"It is {'better' if found.interval.mean > 0 else 'worse'} than {_named(found.first)}."


def _fairness(settings: SweepSettings, points: Sequence[Point], final: Sequence[Point]) -> str:
    """What all groups had alike, and in what they differ; from the runs, not from what was planned."""
    search = {point.group: [other for other in points if other.group == point.group and not other.compared] for point in final}
    given: dict[str, Mapping[str, str]] = {
        "points searched": {group: str(len(members)) for group, members in search.items()},
        "seeds of each point": {group: _range(len(member.runs) for member in members) for group, members in search.items()},
        "epochs trained in the search": {group: f"{sum(map(_epochs, _runs(members))):g}" for group, members in search.items()},
        "runs that failed in the search": {group: str(sum(run.state == "failed" for run in _runs(members))) for group, members in search.items()},
        "seeds compared": {point.group: _listed({run.seed for run in point.runs if run.judged}) for point in final},
        "epochs of each run compared": {point.group: _range(_epochs(run) for run in point.runs if run.judged) for point in final},
    }
    if any("training.batch_size" in settings.variants[point.group] or "training.batch_size" in point.values for point in final):
        given["images in a step"] = {point.group: _batch(settings, point) for point in final}
    same = [f"{thing}: {next(iter(by_group.values()))}" for thing, by_group in given.items() if len(set(by_group.values())) == 1]
    lines = [f"All groups had the same {'; '.join(same)}."] if same else []
    for thing, by_group in given.items():
        if len(set(by_group.values())) > 1:
            told = ", ".join(f"{_named(group)} {value}" for group, value in by_group.items())
            lines.append(f"They differ in the {thing}: {told}.")
    return "\n".join(f"- {line}" for line in lines)
