"""The figures of a sweep: which of them make sense for it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from metaug_ray.config.sweep import SweepSettings
from metaug_ray.evaluation.labels import drawing
from metaug_ray.names import slug
from metaug_ray.tuning.figures.curves import draw_curves
from metaug_ray.tuning.figures.heat_maps import draw_heat_maps
from metaug_ray.tuning.figures.importances import draw_importances
from metaug_ray.tuning.figures.lines import draw_lines
from metaug_ray.tuning.figures.parallel import draw_parallel
from metaug_ray.tuning.points import Point, of_group
from metaug_ray.tuning.scales import scales


def draw_all(
    settings: SweepSettings,
    points: Sequence[Point],
    importances: Mapping[str, Mapping[str, float]],
    folder: Path,
) -> list[Path]:
    """Draw what can be drawn of a sweep, at its end or while it runs; what cannot is left out.

    `curves.png` has the metric by epoch; `importances.png` what the parameters matter; `lines.png` the value over each
    parameter (figure 7 of the paper); `heat_maps.png`, or `heat_maps_GROUP.png` for each group, the value over two
    parameters (figure 6); and `parallel.png` all points.

    Args:
        settings: of the sweep.
        points: of the search.
        importances: of the parameters, by group; from 0 to 1.
        folder: where the figures are written; made if it is not there.

    Returns:
        The PNGs that were written. One that fails is told of in a warning, and takes no other with it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    groups = {group: of_group(points, group) for group in settings.variants}
    written = []
    for name, draw in _figures(settings, groups, importances):
        path = folder / name
        drawn = False
        with drawing(name):
            drawn = draw(path)
        if drawn:
            written.append(path)
    return written


def _figures(
    settings: SweepSettings,
    groups: Mapping[str, Sequence[Point]],
    importances: Mapping[str, Mapping[str, float]],
) -> Iterator[tuple[str, Callable[[Path], bool]]]:
    """What draws each, by the name of its file."""
    axes, metric = scales(settings), settings.run.health.best_metric
    yield "curves.png", partial(draw_curves, groups, settings.rungs(), metric)
    yield "importances.png", partial(draw_importances, importances)
    yield "lines.png", partial(draw_lines, groups, axes, metric)
    for group, points in groups.items():
        name = f"heat_maps_{slug(group)}.png" if group else "heat_maps.png"
        yield name, partial(draw_heat_maps, group, points, axes, importances.get(group, {}), metric)
    yield "parallel.png", partial(draw_parallel, groups, axes, metric)
