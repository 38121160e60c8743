import csv
from pathlib import Path

from metaug_ray.tuning.report import Report, report_text, write_report
from tests.tuning.made_up import point, sweep, trial

SETTINGS = sweep(
    space={
        "method.contrast": {"choice": ["unified", "info_nce"]},
        "method.unified.gamma": {"uniform": [0.15, 0.5], "when": {"method.contrast": ["unified"]}},
    },
    search={"seeds": 2, "asha": {}},
)
REPORT = Report(
    SETTINGS,
    [
        point(0, {"method.contrast": "unified", "method.unified.gamma": 0.25}, [0.4, 0.5]),
        point(1, {"method.contrast": "info_nce"}, [0.6, 0.62]),
        point(2, {"method.contrast": "info_nce"}, [0.2], "stopped", epochs=3, reason="behind after epoch 3"),
        point(3, {"method.contrast": "info_nce"}, [0.9], "failed", epochs=1, reason="a | b"),
    ],
    [trial(0.6, point=1, seed=2, purpose="compare", judged={"judge/knn/top1": 0.55}, mlflow_run="ab12")],
    {"": {"method.contrast": 0.7}},
    seconds=3.5 * 3600,
)


def test_says_what_was_searched_and_found() -> None:
    text = report_text(REPORT, ["curves.png"])
    assert "# Sweep a_sweep" in text
    assert "| `method.unified.gamma` | from 0.15 to 0.5 | method.contrast unified |" in text
    assert (
        "The sweep drew 4 points. Each has 2 seeds, and a run 9 epochs. Runs that were behind after epochs 1, 3" in text
    )
    assert "| search | finished | 4 | 36 | 4.00 |" in text
    assert "| search | stopped early | 1 | 3 | 1.00 |" in text
    assert "| comparison | finished | 1 | 9 | 1.00 |" in text
    assert "The sweep took 3 h 30 min. Its runs took 7 h 00 min, that is, 2 at a time on average" in text
    assert "Of the runs' time 75% was steps" in text
    best = text[text.index("## Best points") : text.index("## Comparison")]
    # Student's t of two values: 12.7 times half their difference.
    assert "| 1 | 0.610 | ± 0.13 | info_nce |  |" in best
    assert best.index("| 1 | 0.610") < best.index("| 0 | 0.450")
    assert "| 3 |" not in best
    assert "| `method.contrast` | 0.70 |" in text
    assert "| a_sweep-3-s0 | 1 | a \\| b |" in text
    assert "![curves](curves.png)" in text


def test_of_a_sweep_that_has_just_begun() -> None:
    text = report_text(Report(sweep(), [], [], {}, 0.0))
    assert "No point has finished." in text
    assert "## Comparison" not in text


def test_a_line_for_each_run(tmp_path: Path) -> None:
    files = write_report(REPORT, tmp_path / "new" / "report", draw=False)
    assert [file.name for file in files] == ["report.md", "trials.csv"]
    with files[1].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7
    assert rows[0]["method.unified.gamma"] == "0.25"
    assert rows[2]["method.unified.gamma"] == ""
    assert (rows[4]["state"], rows[4]["reason"], rows[4]["epochs"]) == ("stopped", "behind after epoch 3", "3.0")
    assert rows[5]["reason"] == "a | b"
    assert (rows[6]["purpose"], rows[6]["method.contrast"], rows[6]["judge/knn/top1"]) == (
        "compare",
        "info_nce",
        "0.55",
    )
    assert (rows[6]["mlflow_run"], float(rows[6]["value"]), rows[6]["seed"]) == ("ab12", 0.6, "2")
