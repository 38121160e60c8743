import re
from typing import Any

import pytest

from metaug_ray.config import PretrainSettings
from metaug_ray.tuning.space import complaints, shown, spaces, value_of, with_values
from tests.tuning.made_up import beta_sweep


def lowest(_: str, parameter: Any) -> Any:
    return parameter.values[0]


def test_values_replace_settings_and_leave_the_others_unset() -> None:
    settings = PretrainSettings.model_validate({"data": {"beton": "x"}, "method": {"delta": 0.1}})
    changed = with_values(settings, {"method.unified.beta": 64, "training.epochs": 3})
    assert value_of(changed, "method.unified.beta") == 64.0
    assert (changed.method.delta, changed.training.epochs) == (0.1, 3)
    assert changed.method.model_fields_set == {"delta", "unified"}


def test_a_parameter_counts_where_its_condition_holds() -> None:
    space = {
        # Named before what it depends on.
        "method.info_nce.temperature": {"uniform": [0.1, 0.2], "when": {"method.contrast": ["info_nce"]}},
        "method.contrast": {"choice": ["unified", "info_nce"]},
        "method.delta": {"uniform": [0.1, 0.2], "when": {"method.generators": [True]}},
    }
    found = spaces(beta_sweep(space=space))[""]
    assert found.point(lowest) == {"method.contrast": "unified", "method.delta": 0.1}
    last = found.point(lambda _, parameter: parameter.values[-1])
    assert last == {"method.contrast": "info_nce", "method.info_nce.temperature": 0.2, "method.delta": 0.2}
    without = spaces(beta_sweep(space=space, groups={"a": {"method.generators": False}}))["a"]
    assert without.point(lowest) == {"method.contrast": "unified"}


def test_grids_are_crossed_where_they_count_and_a_group_searches_not_what_it_fixes() -> None:
    space = {
        "method.generators": {"grid": [True, False]},
        "method.delta": {"grid": [0.1, 0.01, 0.001], "when": {"method.generators": [True]}},
        "method.unified.gamma": {"grid": [0.2, 0.3]},
    }
    found = spaces(beta_sweep(space=space, groups={"all": {}, "plain": {"method.generators": False}}))
    cells = found["all"].cells()
    assert len(cells) == 3 * 2 + 2
    assert {"method.generators": False, "method.unified.gamma": 0.3} in cells
    assert all(found["all"].points_in(cell) == 1 for cell in cells)
    assert found["plain"].cells() == [{"method.unified.gamma": 0.2}, {"method.unified.gamma": 0.3}]


def test_whether_anything_is_drawn_in_a_group() -> None:
    space = {"method.delta": {"uniform": [0.1, 0.2], "when": {"method.generators": [True]}}}
    found = spaces(beta_sweep(space=space, groups={"MetAug": {}, "only OUCL": {"method.generators": False}}))
    assert found["MetAug"].points_in({}) is None
    assert found["only OUCL"].points_in({}) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": {"method.betta": {"choice": [1]}}}, "space.method.betta: there is no such setting; did you mean"),
        ({"space": {"method.beta": {"choice": [1]}}}, "space.method.beta: is called method.unified.beta, "),
        ({"space": {"seed": {"integer": [0, 3]}}}, "space.seed: .*search.seeds"),
        ({"space": {"compute.workers": {"choice": [1, 2]}}}, "space.compute.workers: no result depends on it"),
        ({"space": {"method.delta": {"uniform": [-1, 0.1]}}}, r"space: method.delta -1.*got -1.0; expected at least 0"),
        ({"space": {"training.epochs": {"choice": [1, 2.5]}}}, "space: training.epochs 2.5.*a whole number"),
        ({"space": {"method.margin": {"choice": ["large", "huge"]}}}, "space: method.margin huge.*got 'huge'"),
        ({"space": {"bank.momentum": {"grid": [0.5, 1.5]}}}, "space: bank.momentum 1.5"),
        (
            {"space": {"method.info_nce.temperature": {"uniform": [0.1, 0.2]}}},
            r"has no effect, where method.contrast is unified; give it a condition, such as when: \{method.contrast: "
            r"\[info_nce\]\}",
        ),
        (
            {"space": {"method.delta": {"choice": [0.1], "when": {"method.contrat": ["nce"]}}}},
            "space.method.delta.when.method.contrat: there is no such setting; did you mean method.contrast",
        ),
        (
            {
                "space": {
                    "method.delta": {"choice": [0.1], "when": {"method.alpha": [0.1]}},
                    "method.alpha": {"choice": [0.1], "when": {"method.delta": [0.1]}},
                }
            },
            "go in a circle",
        ),
        (
            {
                "space": {
                    "method.contrast": {"choice": ["unified", "nce"]},
                    "method.delta": {"grid": [0.1], "when": {"method.contrast": ["nce"]}},
                }
            },
            "space.method.delta: a grid cannot depend on method.contrast, which is drawn",
        ),
        ({"groups": {"A": {"method.contrast": "simclr"}}}, "groups.A: method.contrast: got 'simclr'"),
        ({"groups": {"A b": {}, "a-B": {}}}, "groups.A b: its runs would be called 'a-b', as a-B"),
    ],
)
def test_what_the_settings_refuse_is_said_before_anything_starts(changes: dict[str, Any], said: str) -> None:
    lines = "\n".join(complaints(beta_sweep(**changes)))
    assert re.search(said, lines), lines


def test_many_points_that_are_refused_alike_are_one_line() -> None:
    (line,) = complaints(beta_sweep(space={"training.batch_size": {"uniform": [64, 128]}}))
    assert line.startswith("space: training.batch_size ")
    assert line.endswith("expected a whole number (and 199 points more like it)")


def test_nothing_is_said_of_what_the_settings_allow() -> None:
    assert complaints(beta_sweep()) == []


def test_a_point_in_words() -> None:
    assert (
        shown({"method.delta": 1.23456e-5, "method.contrast": "nce"}) == "method.delta 1.235e-05, method.contrast nce"
    )
    assert shown({}) == "no parameters"
