from pathlib import Path

import pytest

from metaug_ray.commands.base import CommandError
from metaug_ray.commands.tune import main, parse
from metaug_ray.config import SweepSettings

SWEEPS = Path(__file__).resolve().parents[2] / "jobs" / "sweeps"
CONFIG = SWEEPS.parent / "cifar10_conv.yaml"


def settings_of(*arguments: str) -> SweepSettings:
    settings = parse(["--config", str(CONFIG), *arguments]).settings
    assert settings is not None
    return settings


def test_a_report_needs_a_name_alone() -> None:
    wish = parse(["--name", "mine", "--storage", "/runs", "--report"])
    assert (wish.settings, wish.report) == (None, ("/runs", "mine"))


@pytest.mark.parametrize("file", sorted(SWEEPS.glob("*.yaml")), ids=lambda file: file.stem)
def test_the_sweeps_that_come_with_the_jobs_are_allowed(file: Path) -> None:
    settings = settings_of("--sweep", str(file), "--health.knn.every", "1")
    assert settings.run.name == file.stem
    assert settings.space


def test_the_command_line_is_stronger_than_the_sweep_and_that_than_the_config(tmp_path: Path) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(
        "name: mine\ntraining: {epochs: 7}\nsearch: {trials: 5, seeds: 2}\nspace: {method.delta: {choice: [0.1]}}\n"
    )
    settings = settings_of("--sweep", str(file), "--search.trials", "9")
    assert (settings.run.name, settings.run.training.epochs) == ("mine", 7)
    assert (settings.search.trials, settings.search.seeds) == (9, 2)
    assert settings.run.model.encoder == "conv"


def test_a_space_on_the_command_line() -> None:
    settings = settings_of("--space", '{"method.delta": {"log_uniform": [1e-8, 0.1]}}')
    assert settings.space["method.delta"].log_uniform == (1e-8, 0.1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("space: {method.delta: {uniform: [0.2, 0.1]}}", "space.method.delta.uniform: got [0.2, 0.1], an empty range"),
        (
            "space: {method.delta: {log_uniform: [0, 0.1]}}",
            "space.method.delta.log_uniform.0: got 0; expected more than 0",
        ),
        ("space: {method.delta: {uniform: [a, 1]}}", "space.method.delta.uniform.0: got 'a'; expected a number"),
        ("space: {method.delta: {}}", "space.method.delta: no kind given"),
        ("space: {method.delta: {choice: [1], grid: [2]}}", "space.method.delta: choice and grid given"),
        ("space: {method.delta: {choice: [0.1, 0.1]}}", "space.method.delta.choice: got [0.1, 0.1]"),
        ("space: {method.delta: {gird: [0.1]}}", "space.method.delta.gird: there is no such setting"),
        ("space: {method.betas: {choice: [0.1]}}", "space.method.betas: there is no such setting"),
        (
            "space:\n  method.delta: {choice: [0.1]}\n  method.delta: {choice: [0.2]}",
            "'method.delta' stands there twice",
        ),
        ("space: [", "cannot be read"),
        ("- 1", "holds no settings by name"),
        (
            "search: {asha: {first: 2}}\nhealth: {knn: {every: 5}}\ntraining: {epochs: 9}",
            "set it to a number that divides it",
        ),
        ("health: {knn: {every: 0}}", "0 measures nothing that a sweep could go by"),
        ("name: nothing", "space: nothing is searched; name parameters in the file of --sweep"),
        ("space: {method: {delta: {choice: [0.1]}}}", "space.method.delta: names are dotted here"),
        ("refit: {epochs: 0}", "refit.epochs: got 0; expected at least 1"),
        ("fork: other", "a sweep's runs begin anew"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, content: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "sweep.yaml"
    file.write_text(content)
    assert main(["--config", str(CONFIG), "--sweep", str(file)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tune_hyperparameters.py: ")
    assert said in error, error


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(CommandError, match=r"sweep: .*none.yaml cannot be read"):
        parse(["--config", str(CONFIG), "--sweep", "none.yaml"])


def test_a_misspelt_option_is_answered_with_the_right_one() -> None:
    with pytest.raises(CommandError, match=r"did you mean --search\.trials"):
        parse(["--config", str(CONFIG), "--search.trails", "3"])


def test_json_that_is_none() -> None:
    with pytest.raises(CommandError, match="or give JSON, as --space"):
        parse(["--config", str(CONFIG), "--space", '{"method.delta": '])


def test_print_config_prints_what_a_sweep_file_may_hold(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--config", str(CONFIG), "--sweep", str(SWEEPS / "greek.yaml")]
    assert main([*arguments, "--print-config"]) == 0
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    assert parse(["--sweep", str(file)]).settings == parse(arguments).settings
