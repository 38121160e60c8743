"""The study's tables, in the words of a sweep's report."""

from collections.abc import Callable
from pathlib import Path

from jobs.studies.worth.stages import CMC, Results, points_of
from metaug_ray.config.sweep import SweepSettings
from metaug_ray.evaluation.results import markdown
from metaug_ray.tuning.comparison import Difference, comparison_section, differences
from metaug_ray.tuning.points import Point, TrialRun, best_point, of_group
from metaug_ray.tuning.space import shown, spaces


def report(stages: dict[str, Callable[[Results], SweepSettings | None]], results: Results) -> str:
    """All stages that have something, in Markdown, and what was judged in any of them beside CMC."""
    parts = [_stage(name, build(results), results) for name, build in stages.items()]
    told = {name: done for name, done in results.items() if name in stages}
    return "\n\n".join(filter(None, [*parts, _against_cmc(told)]))


def draw(stages: dict[str, Callable[[Results], SweepSettings | None]], results: Results, folder: Path) -> None:
    """The figures of the stages that search, in a folder for each."""
    from metaug_ray.tuning.figures.draw_all import draw_all
    from metaug_ray.tuning.search import importances

    for name, build in stages.items():
        sweep, points = build(results), points_of(results.get(name, ()))
        if sweep is not None and points:
            drawn = [point for point in points if point.number]  # the first of each group may lie outside its ranges
            matter = {group: importances(space, of_group(drawn, group)) for group, space in spaces(sweep).items()}
            draw_all(sweep, points, matter, folder / name)


def _stage(name: str, sweep: SweepSettings | None, results: Results) -> str:
    done = results.get(name, ())
    if sweep is None or not done:
        return ""
    finals = [each.run for each in done if each.run.purpose == "compare"]
    points = points_of(done)
    if not points:  # nothing was searched: each group is one point
        points = [Point(group, 0, {}, ()) for group in sweep.groups]
    hours = sum(each.run.hours for each in done)
    steps = sum(each.run.step_hours for each in done)
    parts = [f"# {name}: {len(done)} runs, {hours:.2f} hours of runs, {steps:.2f} of them steps"]
    searched = [group for group in sweep.groups if any(p.runs for p in of_group(points, group))]
    if searched:
        rows = [_best(points, group) for group in searched]
        parts.append(markdown(["group", "points", "kNN, median", "kNN, best", "with"], rows))
    parts.append(comparison_section(sweep, points, finals))
    return "\n\n".join(filter(None, parts))


def _against_cmc(results: Results) -> str:
    """Paired differences of all that was judged to CMC; of what half of the images taught, to CMC's half."""
    rows = []
    for names in (("contrasts", "generators", "confounds", "diagnosis", "diagnosis_centered"), ("half",)):
        judged: dict[str, list[TrialRun]] = {}
        for name in names:
            for each in results.get(name, ()):
                group = CMC if each.run.group == CMC else f"{name}: {each.run.group}"
                if each.run.judged:
                    judged.setdefault(group, []).append(each.run)
        if CMC not in judged:
            continue
        points = [Point(group, 0, {}, runs) for group, runs in judged.items()]
        points.sort(key=lambda point: point.group != CMC)
        found = {(each.group, each.metric): each for each in differences(points)}
        for point in points[1:]:
            cells = [_cell(found[point.group, f"judge/{kind}/top1"]) for kind in ("knn", "linear")]
            rows.append([point.group, str(found[point.group, "judge/knn/top1"].pairs), *cells])
    if not rows:
        return ""
    return "# Against CMC\n\n" + markdown(["", "pairs", "kNN, points", "linear, points"], rows)


def _cell(found: Difference) -> str:
    if found.interval is None:
        return ""
    shown = f"{100 * found.interval.mean:+.1f} ± {100 * found.interval.half_width:.1f}"
    return f"**{shown}**" if found.shown else shown


def _best(points: list[Point], group: str) -> list[str]:
    found = of_group(points, group)
    values = sorted(point.value for point in found if point.finished)
    best = best_point(found)
    if best is None:
        return [group, str(len(found)), "", "", ""]
    median = values[len(values) // 2]
    return [group, str(len(found)), f"{100 * median:.1f}", f"{100 * best.value:.1f}", shown(best.values)]
