from pathlib import Path
from typing import Any

import pytest

from metaug_ray.runtime.stored_folder import StoredFolder
from metaug_ray.tuning.points import TrialRun
from metaug_ray.tuning.trials import Trials
from tests.tuning.made_up import beta_sweep

CMC = {"method.contrast": "info_nce", "method.generators": False}
BETA = {"method.unified.beta": {"log_uniform": [2, 256], "when": {"method.contrast": ["unified"]}}}


def open_trials(folder: Path, **changes: Any) -> Trials:
    return Trials(beta_sweep(**changes), StoredFolder(str(folder), "sweep", "sweep"))


def names(trials: Trials, count: int = 99) -> list[str]:
    """The next runs that begin together."""
    found = []
    while len(found) < count and (run := trials.next_run()) is not None:
        found.append(run.name)
    return found


def finish(trials: Trials, name: str, value: float) -> None:
    trials.measured(name, 4, value)
    trials.ended(name, "finished")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path) -> Path:
    (tmp_path / "sweep").mkdir()
    return tmp_path


def test_every_group_gets_its_points_in_turn_with_all_their_seeds(folder: Path) -> None:
    trials = open_trials(folder, groups={"Met Aug": {}, "wide": {"model.width": 0.5}}, search={"trials": 2, "seeds": 2})
    assert trials.to_come() == 8
    assert names(trials, 5) == [
        "sweep-met-aug-0000-s0",
        "sweep-met-aug-0000-s1",
        "sweep-wide-0000-s0",
        "sweep-wide-0000-s1",
        "sweep-met-aug-0001-s0",
    ]
    assert trials.to_come() == 3
    run = trials.run("sweep-wide-0000-s1")
    settings = trials.settings_of(run)
    assert (settings.name, settings.seed, settings.model.width) == ("sweep-wide-0000-s1", 1, 0.5)
    assert settings.method.unified.beta == trials.points[1].values["method.unified.beta"]


def test_a_grid_is_tried_entirely_and_once(folder: Path) -> None:
    grid = {"method.delta": {"grid": [0.1, 0.01]}, "method.unified.gamma": {"grid": [0.2, 0.3, 0.4]}}
    trials = open_trials(folder, space=grid)
    assert len(names(trials)) == 6
    assert len({tuple(point.values.items()) for point in trials.points}) == 6
    for run in trials.runs:
        finish(trials, run.name, 0.5)
    assert trials.done


def test_a_sweep_that_was_killed_loses_no_run_and_makes_none_twice(folder: Path) -> None:
    trials = open_trials(folder)
    first, second = names(trials, 2)
    trials.measured(first, 1, 0.25)
    finish(trials, second, 0.5)
    drawn = [point.values for point in trials.points]

    again = open_trials(folder)
    assert [(run.name, run.state) for run in again.runs] == [(first, "pending"), (second, "finished")]
    assert again.run(first).series == ((1, 0.25),)
    third = again.next_run()
    assert third is not None
    assert third.name == first  # goes on before anything begins
    again.measured(first, 1, 0.25)  # is told again
    again.measured(first, 2, 0.3)
    assert again.run(first).series == ((1, 0.25), (2, 0.3))
    assert len(names(again)) == 1
    assert [point.values for point in again.points[:2]] == drawn


def test_an_interrupted_sweep_draws_what_it_would_have_drawn(folder: Path, tmp_path: Path) -> None:
    drawn = []
    for interrupted in (False, True):
        (tmp_path / str(interrupted) / "sweep").mkdir(parents=True)
        trials = open_trials(tmp_path / str(interrupted), search={"trials": 14})
        for number in range(14):
            (name,) = names(trials, 1)
            finish(trials, name, float(number % 5))
            if interrupted:
                trials = open_trials(tmp_path / str(interrupted), search={"trials": 14})
        drawn.append([point.values for point in trials.points])
    assert drawn[0] == drawn[1]


def test_more_trials_go_on_with_a_sweep(folder: Path) -> None:
    trials = open_trials(folder)
    for name in names(trials):
        finish(trials, name, 0.5)
    assert trials.done
    more = open_trials(folder, search={"trials": 5})
    assert not more.done
    assert names(more) == ["sweep-0003-s0", "sweep-0004-s0"]


def test_the_best_of_each_group_comes_on_new_seeds_when_all_has_ended(folder: Path) -> None:
    changes: dict[str, Any] = {
        "space": BETA,
        "groups": {"CMC": CMC, "MetAug": {}},
        "search": {"trials": 2, "seeds": 2},
        "compare": {"judge": "judge.beton", "seeds": 2},
        "refit": {"epochs": 9},
    }
    trials = open_trials(folder, **changes)
    assert trials.to_come() == 2 + 4 + 4 + 2
    search = names(trials)
    # CMC has no parameter to draw, so one point says all.
    assert [name.rpartition("-s")[0] for name in search[::2]] == [
        "sweep-cmc-0000",
        "sweep-metaug-0000",
        "sweep-metaug-0001",
    ]
    assert trials.next_run() is None  # before the search has ended
    for name in search:
        finish(trials, name, 0.9 if name.startswith("sweep-metaug-0001") else 0.4)
    finals = names(trials)
    assert finals == [
        "sweep-cmc-0000-s2",
        "sweep-cmc-0000-s3",
        "sweep-cmc-0000-s0-refit",
        "sweep-metaug-0001-s2",
        "sweep-metaug-0001-s3",
        "sweep-metaug-0001-s0-refit",
    ]
    assert trials.settings_of(trials.run(finals[2])).training.epochs == 9
    assert trials.settings_of(trials.run(finals[3])).training.epochs == 4
    assert not trials.done
    for name in finals:
        trials.ended(name, "finished", judged={"judge/knn/top1": 0.5})
    assert trials.done
    again = open_trials(folder, **changes)
    assert again.done
    assert again.run(finals[0]).judged == {"judge/knn/top1": 0.5}
    assert again.to_come() == 0


def test_where_there_is_nothing_to_choose_only_the_final_runs_are_made(folder: Path) -> None:
    trials = open_trials(
        folder, space={}, groups={"CMC": CMC, "MetAug": {}}, compare={"judge": "judge.beton", "seeds": 2}
    )
    assert trials.to_come() == 4
    assert names(trials) == ["sweep-cmc-0000-s0", "sweep-cmc-0000-s1", "sweep-metaug-0000-s0", "sweep-metaug-0000-s1"]
    for run in trials.runs:
        trials.ended(run.name, "finished")
    assert trials.done


def test_a_group_of_which_all_failed_is_compared_with_none(folder: Path) -> None:
    trials = open_trials(folder, compare={"judge": "judge.beton"})
    for name in names(trials):
        trials.ended(name, "failed", "not finite")
    assert trials.next_run() is None
    assert trials.done
    assert trials.best("") is None


def test_all_seeds_of_a_point_that_is_behind_are_stopped(folder: Path) -> None:
    trials = open_trials(folder, search={"trials": 3, "seeds": 2, "asha": {"first": 2, "factor": 2}})
    first, second, third, fourth = names(trials, 4)
    for name, value in ((first, 0.5), (second, 0.5), (third, 0.3)):
        trials.measured(name, 1, 0.0)
        assert trials.behind(name, 1) is None  # no rung
        trials.measured(name, 2, value)
        assert trials.behind(name, 2) is None
    trials.measured(fourth, 2, 0.2)
    said = trials.behind(fourth, 2)
    assert said == "behind after epoch 2: 0.25, where the best 1 of 2 have 0.5"
    trials.ended(fourth, "stopped", said)
    trials.measured(third, 3, 0.9)
    assert trials.behind(third, 3) == said


def test_hours_add_up_over_the_starts_of_a_run(folder: Path) -> None:
    trials = open_trials(folder)
    (name,) = names(trials, 1)
    trials.took(name, 0.5, 0.25)
    trials.took(name, 1.0, 0.5)
    trials.measured(name, 1, 0.25)
    again = open_trials(folder)
    names(again, 1)
    again.took(name, 0.25, 0.6)
    assert (again.run(name).hours, again.run(name).step_hours) == (1.25, 0.6)


def test_what_is_interrupted_waits_for_the_next_start(folder: Path) -> None:
    trials = open_trials(folder)
    (name,) = names(trials, 1)
    trials.interrupt("Ctrl-C")
    assert trials.run(name) == TrialRun(name, "", 0, 0, state="pending", reason="Ctrl-C")


def test_more_epochs_go_on_with_what_had_finished(folder: Path) -> None:
    trials = open_trials(folder)
    for name in names(trials):
        finish(trials, name, 0.5)
    run = {
        "name": "sweep",
        "data": {"beton": "images.beton"},
        "training": {"epochs": 6},
        "health": {"knn": {"every": 1}},
    }
    longer = open_trials(folder, run=run)
    assert {found.state for found in longer.runs} == {"pending"}
    assert len(names(longer)) == 3
