"""Names as figures show them; warnings of matplotlib, such as of a letter that its font lacks, fail these tests."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib import font_manager, rcParams

from metaug_ray.evaluation.comparison_report import Judges, Row, write
from metaug_ray.evaluation.labels import _families, drawing, labels, shown
from metaug_ray.evaluation.plots import draw_confusion, draw_map
from tests.log import Log

NAMES = {
    "dollars": ("$5_to_$10", "$10_to_$20"),
    "other letters": ("\u732b", "\u72ac"),
    "underscores and lines": ("_background", "b\nc"),
    "long": ("x" * 300, "x" * 299 + "y"),
    "marks": ("[~] 50% #1 \\frac{1}{2}", "\u202eabc"),
    "nothing": ("", "\t"),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_any_name_is_drawn_without_a_word_on_stderr(names: tuple[str, ...], tmp_path: Path) -> None:
    right = np.arange(40) % 2
    points = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_confusion(right[::-1].copy(), right, names, "linear", tmp_path / "confusion.png")
        draw_map(points, right, names, tmp_path / "map.png")
    assert (tmp_path / "confusion.png").stat().st_size > 5000
    assert (tmp_path / "map.png").stat().st_size > 5000


def test_names_are_shown_as_they_are_and_told_apart() -> None:
    assert labels(("$5_to_$10", "caf\u00e9")).texts == ("$5_to_$10", "caf\u00e9")
    # Legends leave out what begins with an underscore.
    assert labels(("_background", "b\nc")).texts == (" _background", "b c")
    first, second = labels(NAMES["long"]).texts
    assert len(first) == len(second) == 32
    assert (first[-1], second[-1]) == ("x", "y")
    same = labels(("a" * 25 + "1" + "b" * 20, "a" * 25 + "2" + "b" * 20)).texts
    assert [text[:3] for text in same] == ["#0 ", "#1 "]
    assert labels(NAMES["nothing"]).texts == ("#0 ?", "#1 ?")


def test_letters_that_no_font_has_are_told_once_with_the_numbers(log: Log) -> None:
    # Printable, and in no font: of an alphabet that nobody uses any more.
    names = ("\U00014400cat", "dog")
    assert labels(names).texts == ("#0 ?cat", "#1 dog")
    assert labels(names) is labels(names)
    assert len(log.messages) == 1
    assert log.messages[0].endswith("figures number them: #0 \U00014400cat, #1 dog")


def test_an_installed_font_is_used_for_what_the_usual_one_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    # Matplotlib's own, which are left out, under another name.
    entry = next(entry for entry in font_manager.fontManager.ttflist if entry.name == "STIXNonUnicode")
    other = dataclasses.replace(entry, name="Other letters")
    usual = font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap()
    letters = [chr(code) for code in font_manager.get_font(entry.fname).get_charmap() if code not in usual]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", [*font_manager.fontManager.ttflist, other])
    assert _families({"a", letters[0]}) == (("DejaVu Sans", "Other letters"), set())


def test_the_settings_of_matplotlib_are_as_before() -> None:
    before = dict(rcParams)
    with shown(("$a$",)) as texts:
        assert texts == ("$a$",)
        assert rcParams["text.parse_math"] is False
    assert dict(rcParams) == before


def test_a_figure_that_fails_is_a_warning(log: Log) -> None:
    reached = []
    with drawing("map.png"):
        raise ValueError("no\nsuch font")
    reached.append("after it")
    assert reached
    assert log.messages == ["map.png cannot be drawn (ValueError: no); the results do not depend on it"]


def test_a_comparison_of_data_with_odd_names(tmp_path: Path) -> None:
    row = Row(
        Judges("$5_|_$10.beton -> \u732b.beton"), "CMC", "c", {}, "conv, l+ab", 1.0, {0: "r"}, {"knn/top1": {0: 0.5}}
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = write([row], ["knn/top1"], tmp_path)
    assert "| $5_\\|_$10.beton -> \u732b.beton |" in text
    assert (tmp_path / "comparison_0.png").exists()
