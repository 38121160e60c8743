"""The best point of each group, compared on new seeds: paired differences, and what may be said of them."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from metaug_ray.config.pretrain import RANKME
from metaug_ray.config.sweep import SweepSettings
from metaug_ray.evaluation.intervals import Interval, confidence_interval
from metaug_ray.evaluation.results import in_a_cell, markdown, percent
from metaug_ray.tuning.points import Point, TrialRun, best_point, of_group, runs_of


class Difference(NamedTuple):
    """A group minus the first one, by seed."""

    group: str
    first: str
    metric: str
    pairs: int
    """seeds that both have"""
    interval: Interval | None
    """of the mean difference, as a share; None without a pair"""

    @property
    def shown(self) -> bool:
        """Whether the 95 % interval leaves 0 out."""
        found = self.interval
        return found is not None and abs(found.mean) > found.half_width  # NaN, of a single pair, is no interval


def compared(settings: SweepSettings, points: Sequence[Point], finals: Sequence[TrialRun]) -> list[Point]:
    """The best point of each group, with its runs of the final comparison in the place of those of the search.

    A sweep that went on may have a better point than the one that it once compared; its earlier runs are left out.
    """
    found = []
    for group in settings.variants:
        best = best_point(of_group(points, group))
        if best is not None:
            key = ("compare", group, best.number)
            runs = [run for run in finals if (run.purpose, run.group, run.point) == key]
            if runs:
                found.append(replace(best, runs=runs))
    return found


def differences(final: Sequence[Point]) -> list[Difference]:
    """Of each group to the first one, by metric.

    Student's interval of the paired differences, as of `scipy.stats.ttest_rel`: what a seed does to both groups, by the
    initial weights and the order of the images, is no part of it.

    Args:
        final: what `compared` returns.
    """
    found = []
    for point in final[1:]:
        for metric in judged_metrics(final):
            base, other = _by_seed(final[0], metric), _by_seed(point, metric)
            paired = [other[seed] - base[seed] for seed in sorted(base.keys() & other.keys())]
            interval = confidence_interval(paired) if paired else None
            found.append(Difference(point.group, final[0].group, metric, len(paired), interval))
    return found


def judged_metrics(points: Sequence[Point]) -> list[str]:
    """All that was judged, by name; what is only seen comes last."""
    names = {name for run in runs_of(points) for name in run.judged}
    return sorted(names, key=lambda name: (name.startswith("seen/"), name))


def comparison_section(settings: SweepSettings, points: Sequence[Point], finals: Sequence[TrialRun]) -> str:
    """The comparison in Markdown: who judged, a table of means, paired differences, and what the groups were given.

    Args:
        settings: of the sweep.
        points: of the search.
        finals: runs after it.

    Returns:
        Empty text where nothing was judged.
    """
    final = compared(settings, points, finals)
    if not judged_metrics(final):
        return ""
    parts = ["## Comparison", _judges(settings, points, final), _means(final)]
    missing = [named(group) for group in settings.variants if group not in {point.group for point in final}]
    if missing:
        parts.append(f"Left out, as no best point of theirs has been trained again: {_and(missing)}.")
    if len(final) > 1:
        parts += [f"### Differences to {named(final[0].group)}", _differences(final)]
        parts += ["### What the groups were given", fairness(settings, points, final)]
    return "\n\n".join(parts) + "\n"


def named(group: str) -> str:
    """A group in a table or a sentence."""
    return in_a_cell(group) or "all"


def _judges(settings: SweepSettings, points: Sequence[Point], final: Sequence[Point]) -> str:
    run, compare = settings.run, settings.compare
    searched = {trial.seed for trial in runs_of(points)}
    seeds = {trial.seed for trial in runs_of(final)}
    old = sorted(seeds & searched)
    new = f"the search had {_listed(old)} of these" if old else "which the search did not have"
    text = f"The best point of {'each group' if settings.groups else 'the search'} was trained again with the seeds "
    text += f"{_listed(seeds)}; {new}." if old else f"{_listed(seeds)}, {new}."
    text += f" {_decided(settings)}" if searched else ""
    if compare is None:
        return text
    text += (
        f" The lines `judge/` are judged by the images of `{compare.judge}`, whose labels decided nothing. "
        f"Classifiers learnt from the labels of `{compare.train or run.data.beton}`."
    )
    if compare.seen:
        text += (
            f" The lines `seen/` are judged by the images of `{compare.seen}`. They are called seen, as earlier "
            "results chose by them: these lines can be set beside such results, and prove nothing by themselves."
        )
    return text


def _decided(settings: SweepSettings) -> str:
    """Whose labels the search went by."""
    health = settings.run.health
    if health.best_metric == RANKME:
        return "No labels decided which point is best: the search went by RankMe."
    voters = health.knn.references_beton or settings.run.data.beton
    asked = f", which voted, and of `{health.knn.beton}`" if health.knn.beton else ""
    return f"The labels that decided which point is best are those of `{voters}`{asked}."


def _means(final: Sequence[Point]) -> str:
    rows = []
    for metric in judged_metrics(final):
        cells = []
        for point in final:
            values = list(_by_seed(point, metric).values())
            count = "" if len(values) == len(point.runs) else f" (of {len(values)})"
            cells.append(f"{percent(confidence_interval(values))}{count}" if values else "")
        rows.append([metric, *cells])
    runs = _range(len(point.runs) for point in final)
    explained = f"These are means over the runs, of which each group has {runs}, with half widths of 95 % intervals."
    return markdown(["judged by", *(named(point.group) for point in final)], rows) + f"\n{explained}"


def _differences(final: Sequence[Point]) -> str:
    rows = [
        [named(found.group), found.metric, _points(found.interval), str(found.pairs), _said(found)]
        for found in differences(final)
    ]
    explained = (
        "A difference is that between two runs of one seed, in percentage points; its mean is over the seeds that both "
        "groups have, and the interval is Student's at 95 %. Where it contains 0, no difference was shown, which does "
        "not show that there is none. Each interval stands for itself: where there is no difference at all, about one "
        "in twenty leaves 0 out by chance."
    )
    return markdown(["group", "judged by", "difference in points", "pairs", "what it says"], rows) + f"\n{explained}"


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
    return f"It is {'better' if found.interval.mean > 0 else 'worse'} than {named(found.first)}."


def fairness(settings: SweepSettings, points: Sequence[Point], final: Sequence[Point]) -> str:
    """What all groups had alike, and in what they differ: by their runs, not by what was planned.

    Args:
        settings: of the sweep.
        points: of the search.
        final: what `compared` returns, of several groups.
    """
    given = dict(_given(settings, points, final))
    same = [f"{thing} ({next(iter(had.values()))})" for thing, had in given.items() if len(set(had.values())) == 1]
    lines = [f"Each group had the same {_and(same)}."] if same else []
    for thing, had in given.items():
        if len(set(had.values())) > 1:
            told = [f"{named(group)} had {value}" for group, value in had.items()]
            lines.append(f"The groups differ in the {thing}: {_and(told)}.")
    return "\n".join(f"- {line}" for line in lines)


def _given(
    settings: SweepSettings, points: Sequence[Point], final: Sequence[Point]
) -> Iterator[tuple[str, Mapping[str, str]]]:
    """What each group had, by the thing and the group."""
    groups = [point.group for point in final]
    search = {group: of_group(points, group) for group in groups}
    runs = {group: runs_of(members) for group, members in search.items()}
    judged = {point.group: [run for run in point.runs if run.judged] for point in final}
    yield "number of points searched", {group: str(len(search[group])) for group in groups}
    yield "seeds of each point", {group: _range(len(point.runs) for point in search[group]) for group in groups}
    yield "epochs of training in the search", {group: f"{sum(run.epochs for run in runs[group]):g}" for group in groups}
    yield "number of failed runs", {group: str(sum(run.state == "failed" for run in runs[group])) for group in groups}
    yield "seeds of the comparison", {group: _listed({run.seed for run in judged[group]}) for group in groups}
    yield (
        "epochs of each run of the comparison",
        {group: _range(run.epochs for run in judged[group]) for group in groups},
    )
    # Epochs of smaller batches are more steps.
    batches = {point.group: str(_batch(settings, point)) for point in final}
    yield "number of images in a step", batches


def _batch(settings: SweepSettings, point: Point) -> int:
    chosen = {**settings.variants[point.group], **point.values}
    return int(chosen.get("training.batch_size", settings.run.training.batch_size))


def _by_seed(point: Point, metric: str) -> dict[int, float]:
    return {run.seed: run.judged[metric] for run in point.runs if metric in run.judged}


def _range(counts: Iterable[float]) -> str:
    found = sorted(set(counts))
    if not found:
        return "none"
    return f"{found[0]:g}" if len(found) == 1 else f"{found[0]:g} to {found[-1]:g}"


def _listed(seeds: Iterable[int]) -> str:
    return _and([str(seed) for seed in sorted(seeds)]) or "none"


def _and(texts: Sequence[str]) -> str:
    return " and ".join([", ".join(texts[:-1]), texts[-1]]) if len(texts) > 1 else "".join(texts)
