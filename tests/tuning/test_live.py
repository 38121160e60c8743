import io
import logging
from collections.abc import Sequence

import pytest
from rich.console import Console

from metaug_ray.runtime.log import shown_log
from metaug_ray.tuning.live import LiveView
from metaug_ray.tuning.points import Point
from tests.tuning.made_up import point, sweep

SETTINGS = sweep(space={"method.delta": {"log_uniform": [1e-8, 1]}}, search={"trials": 4})
FIRST = point(0, {"method.delta": 1e-3}, [0.4])
SECOND = point(1, {"method.delta": 1e-5}, [0.5])
BEGUN = point(1, {"method.delta": 1e-5}, [0.2], "running", epochs=3, hours=0.5)


def update(view: LiveView, *points: Point, to_come: int = 2) -> None:
    progress = {run.name: 3.5 for point in points for run in point.runs if run.state == "running"}
    view.update(points, (), to_come, 1, progress, 5400.0)


def test_a_table_in_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    # What goes to standard output goes above the table, lines of the log too.
    console = Console(file=screen, force_terminal=True, width=100, height=30, color_system=None)
    with shown_log():
        with LiveView(SETTINGS, console) as view:
            update(view, FIRST, BEGUN)
            logging.getLogger("metaug_ray.elsewhere").info("a line [of] another module")
        # The handler has its stream again.
        logging.getLogger("metaug_ray.elsewhere").info("afterwards")
    lines = screen.getvalue().split("\x1b[2K")
    assert any("a line [of] another module" in line for line in lines)
    assert "afterwards" not in screen.getvalue()
    table = screen.getvalue()[screen.getvalue().rindex("sweep a_sweep") :]
    assert "sweep a_sweep: 1 finished, 1 running, 2 pending" in table
    # A run takes an hour: half of one, and two.
    assert "1 h 30 min used, about 2 h 30 min left" in table
    assert "a_sweep-1-s0  3.5 / 9  0.200         delta 1e-5" in table
    best = table[table.index("best") :].splitlines()[1].split()
    assert best[:4] == ["0", "0.400", "delta", "0.001"]


def test_more_runs_than_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=100, height=15, color_system=None)
    running: Sequence[Point] = [point(n, {}, [0.1], "running") for n in range(20)]
    with LiveView(SETTINGS, console) as view:
        update(view, *running)
    assert "and 15 more" in screen.getvalue()


def test_lines_where_there_is_no_terminal(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with LiveView(SETTINGS, Console(file=io.StringIO())) as view:
        update(view, FIRST, BEGUN)
        first = list(caplog.messages)
        update(view, FIRST, BEGUN)
        assert caplog.messages == first
        caplog.clear()
        failed = point(2, {"method.delta": 1e-2}, [0.1], "failed", epochs=1, reason="out of memory")
        stopped = point(3, {"method.delta": 1e-1}, [0.1], "stopped", epochs=3, reason="behind")
        update(view, FIRST, SECOND, failed, stopped, to_come=0)
    # What had finished before the sweep went on is no news.
    assert first == [
        "run a_sweep-1-s0 started: delta 1e-5",
        "1 finished, 1 running, 2 pending; 1 h 30 min used, about 2 h 30 min left",
    ]
    assert caplog.messages == [
        "run a_sweep-1-s0 finished with knn/accuracy 0.500 after 1 h 00 min",
        "run a_sweep-2-s0 failed with knn/accuracy 0.100 after 1 epoch: out of memory",
        "run a_sweep-3-s0 was stopped early with knn/accuracy 0.100 after 3 epochs: behind",
        "best point so far: 1, knn/accuracy 0.500 with delta 1e-5",
        "2 finished, 1 stopped, 1 failed, 0 pending; 1 h 30 min used, about 0 s left",
    ]


def test_time_is_not_told_before_it_is_known(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with LiveView(SETTINGS, Console(file=io.StringIO())) as view:
        update(view, BEGUN)
    assert "time left not known before a run has ended" in caplog.messages[-1]
