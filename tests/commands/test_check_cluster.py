from pathlib import Path

import pytest

from metaug_ray.commands.base import CommandError
from metaug_ray.commands.check_cluster import main, parse
from metaug_ray.config.presets import PRESETS

CONFIG = Path(__file__).resolve().parents[2] / "jobs" / "cifar10_conv.yaml"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_nothing_needs_to_be_said() -> None:
    settings = parse([])
    assert (settings.betons, settings.check.nodes) == ((), 1)
    assert settings.tracking.uri.endswith("metaug_ray/mlflow.db")


def test_it_takes_the_command_of_the_run_to_come(tmp_path: Path) -> None:
    run = ["--config", str(CONFIG), "--data.beton", "/a.beton", "--name", "x", "--health.knn.every", "2"]
    settings = parse([*run, "--storage", str(tmp_path), "--compute.workers", "4", "--check.nodes", "3"])
    assert (settings.betons[0], settings.storage) == ("/a.beton", str(tmp_path))
    assert (settings.compute.workers, settings.check.nodes) == (4, 3)


def test_all_betons_of_the_run_are_looked_at_once() -> None:
    knn = ["--health.knn.references-beton", "/b.beton", "--health.knn.beton", "/a.beton"]
    assert parse(["--data.beton", "/a.beton", *knn]).betons == ("/a.beton", "/b.beton")
    demo = str(Path(PRESETS["demo"]["data"]["beton"]).absolute())
    assert parse(["--preset", "demo"]).betons == (demo,)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--check.timeout", "0"], "check.timeout: got '0'; expected more than 0"),
        (["--check.node", "2"], "did you mean --check.nodes"),
        (["--training.batch-size", "0"], "training.batch_size: got '0'"),
        (["--data.beton", "s3://bucket/a.beton"], "compute.staging: s3://bucket/a.beton is not a local file"),
        (["--print-config"], "imagenet_resnet50.py does"),
    ],
)
def test_wrong_arguments(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandError) as refused:
        parse(arguments)
    assert said in str(refused.value)
    assert main(arguments) == 2
    assert said in capsys.readouterr().err
