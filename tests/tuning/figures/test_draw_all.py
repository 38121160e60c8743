import logging
from collections.abc import Sequence
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metaug_ray.tuning.figures import draw_all as module
from metaug_ray.tuning.figures.draw_all import draw_all
from tests.tuning.made_up import point, sweep


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Figures by the names of their files; they are laid out, and not written."""
    figures: dict[str, Figure] = {}

    def savefig(figure: Figure, path: Path, dpi: int) -> None:
        figures[path.name] = figure

    monkeypatch.setattr(Figure, "savefig", savefig)
    return figures


def _panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.axison and axes.get_label() != "<colorbar>"]


def test_a_grid_is_shown_as_in_the_paper(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    betas, deltas = [2, 8, 32, 128], [1e-2, 1e-4, 1e-6]
    settings = sweep(space={"method.unified.beta": {"grid": betas}, "method.delta": {"grid": deltas}})
    cells = [(beta, delta) for beta in betas for delta in deltas]
    points = [
        point(n, {"method.unified.beta": beta, "method.delta": delta}, [0.02 * n], "failed" if n == 4 else "finished")
        for n, (beta, delta) in enumerate(cells)
    ]
    files = draw_all(settings, points, {}, tmp_path)
    assert [file.name for file in files] == ["curves.png", "lines.png", "heat_maps.png", "parallel.png"]
    [axes] = _panels(drawn["heat_maps.png"])
    grid = axes.images[0].get_array()
    assert grid.shape == (3, 4)
    # Cell 4 is beta 8, delta 1e-4; deltas rise upwards.
    assert [(row, column) for row in range(3) for column in range(4) if not 0 <= grid[row, column] <= 1] == [(1, 1)]
    assert grid[0, 3] == pytest.approx(0.02 * 11)
    assert axes.patches[0].get_xy() == (2.5, -0.5)
    beta, delta = _panels(drawn["lines.png"])
    assert beta.get_xscale() == delta.get_xscale() == "log"
    assert [text.get_text() for text in beta.get_xticklabels()] == ["2", "8", "32", "128"]
    line = beta.containers[0].lines[0]
    # Delta is held at the best point's, 1e-6.
    assert list(line.get_ydata()) == pytest.approx([0.02 * n for n in (2, 5, 8, 11)])


def test_seeds_give_intervals(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    settings = sweep(
        space={"method.unified.gamma": {"grid": [0.15, 0.3]}}, search={"seeds": 2}, groups={"a": {}, "b": {}}
    )
    points = [
        point(n, {"method.unified.gamma": gamma}, found, group=group)
        for group in "ab"
        for n, (gamma, found) in enumerate([(0.15, [0.4, 0.5]), (0.3, [0.5, 0.52])])
    ]
    draw_all(settings, points, {}, tmp_path)
    [axes] = _panels(drawn["lines.png"])
    assert len(axes.containers) == 2
    low, high = axes.containers[0].lines[2][0].get_segments()[0][:, 1]
    # Student's t of two values: 12.706 times half their difference.
    assert (high - low) / 2 == pytest.approx(12.706 * 0.05, rel=1e-3)


def test_curves_tell_what_became_of_runs(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    points = [
        point(0, {}, [0.5]),
        point(1, {}, [0.6]),
        point(2, {}, [0.2], "stopped", epochs=3),
        point(3, {}, [0.1], "failed", epochs=1),
    ]
    draw_all(sweep(search={"asha": {}}), points, {}, tmp_path)
    [axes] = _panels(drawn["curves.png"])
    rungs = [line.get_xdata()[0] for line in axes.lines if list(line.get_ydata()) == [0, 1]]
    assert rungs == [1, 3]
    first, best, stopped, failed = axes.lines[2:]
    assert best.get_linewidth() > 2 * first.get_linewidth()
    assert (stopped.get_linestyle(), stopped.get_marker()) == ("--", "x")
    assert list(failed.get_xdata()) == [1]


def test_conditions_groups_and_ranges(tmp_path: Path, drawn: dict[str, Figure]) -> None:
    settings = sweep(
        space={
            "method.contrast": {"choice": ["unified", "info_nce"]},
            "method.unified.gamma": {"uniform": [0.15, 0.5], "when": {"method.contrast": ["unified"]}},
            "method.delta": {"log_uniform": [1e-8, 1e-1]},
        },
        groups={"CMC $+$ Hard": {}, "MetAug": {}},
    )
    points = [
        point(
            n,
            {"method.contrast": "unified", "method.unified.gamma": 0.2 + 0.02 * n, "method.delta": 10.0**-n}
            if n % 2
            else {"method.contrast": "info_nce", "method.delta": 10.0**-n},
            [0.1 * n],
            group=group,
        )
        for group in settings.groups
        for n in range(1, 8)
    ]
    importances = {"MetAug": {"method.delta": 0.8, "method.contrast": 0.2}}
    files = draw_all(settings, points, importances, tmp_path)
    maps = ["heat_maps_cmc-hard.png", "heat_maps_metaug.png"]
    # Four points have both gamma and delta, too few for a map.
    assert [file.name for file in files] == ["curves.png", "importances.png", "lines.png", "parallel.png"]
    more = [
        point(n, {"method.unified.gamma": 0.3, "method.delta": 0.1 / n}, [0.1], group=g)
        for g in settings.groups
        for n in (8, 9)
    ]
    assert {*maps} <= {file.name for file in draw_all(settings, [*points, *more], importances, tmp_path)}
    assert [axes.get_title() for axes in _panels(drawn["curves.png"])] == ["CMC $+$ Hard", "MetAug"]
    bars = [bar.get_width() for bar in _panels(drawn["importances.png"])[0].patches]
    assert bars == [0.8, 0.2]
    texts = [text.get_text() for text in drawn["parallel.png"].axes[0].texts]
    assert {"group", "contrast", "gamma", "delta", "not searched", "knn/accuracy", "CMC $+$ Hard"} <= {*texts}


def test_a_figure_that_fails_takes_no_other_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> bool:
        raise RuntimeError("no ink")

    monkeypatch.setattr(module, "draw_curves", fails)
    points = [point(n, {"method.delta": 0.1 * n}, [0.1 * n]) for n in (1, 2)]
    with caplog.at_level(logging.WARNING):
        files = draw_all(sweep(space={"method.delta": {"uniform": [0, 1]}}), points, {}, tmp_path)
    assert [file.name for file in files] == ["lines.png", "parallel.png"]
    assert all(file.stat().st_size > 5000 for file in files)
    assert "curves.png cannot be drawn (RuntimeError: no ink)" in caplog.text


@pytest.mark.parametrize("points", [[], [point(0, {"method.delta": 1}, [0.5], "running")], [point(0, {}, [0.5])]])
def test_nothing_is_drawn_of_nothing(tmp_path: Path, drawn: dict[str, Figure], points: Sequence) -> None:
    files = draw_all(sweep(space={"method.delta": {"grid": [1, 2]}}), points, {}, tmp_path)
    assert [file.name for file in files] == (["curves.png"] if points else [])
