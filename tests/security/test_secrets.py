"""Secrets are in the environment, and nowhere else. `tests/integration/test_sweep.py` searches what runs leave."""

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.tune import Trainable
from ray.tune.execution.class_cache import _ActorClassCache

from metaug_ray.commands.base import CommandError
from metaug_ray.commands.pretrain import parse
from metaug_ray.config import PretrainSettings
from metaug_ray.config.recorded import read_settings
from metaug_ray.errors import UserError
from metaug_ray.private import without_keys_in_trials
from metaug_ray.tracking.connection import connect
from metaug_ray.tracking.errors import TrackingError
from tests.security.planted import SECRETS, leaks
from tests.training.small import small_settings

URI = "http://me:hunter2@mlflow:5000"


def test_the_search_finds_what_is_planted(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/log").write_bytes(b"\0token: " + SECRETS["RAY_AUTH_TOKEN"].encode())
    assert leaks(tmp_path, "nothing") == [f"RAY_AUTH_TOKEN in {tmp_path}/a/log"]
    assert leaks(f"x {SECRETS['MLFLOW_TRACKING_PASSWORD']}") == ["MLFLOW_TRACKING_PASSWORD in the output"]
    assert {os.environ[name] for name in SECRETS} == set(SECRETS.values())


@pytest.mark.parametrize(
    "option", ["--tracking.uri", "--storage", "--data.beton", "--health.knn.beton", "--tracking.experiment"]
)
def test_a_password_in_an_address_is_refused_and_not_shown(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--data.beton", "x.beton", "--training.epochs", "0", option, URI]
    with pytest.raises(CommandError) as caught:
        parse(given)
    said = f"{caught.value}{capsys.readouterr()}"
    assert "hunter2" not in said
    if option != "--tracking.experiment":  # which is no address
        assert f"{option[2:]}: got 'http://me:***@mlflow:5000'; expected an address without password" in said


def test_so_it_is_in_a_file_a_variable_and_a_wrong_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.yaml"
    for content in ({"tracking": {"uri": URI}}, {"tracking": URI}, {"tracking": {"url": URI}}, {"uri": URI}):
        file.write_text(yaml.safe_dump({"data": {"beton": "x.beton"}} | content))
        with pytest.raises(CommandError) as caught:
            parse(["--config", str(file)])
        assert "hunter2" not in str(caught.value)
    with pytest.raises(CommandError) as caught:
        parse(["--data.beton", "x.beton", "--tracking-uri", URI])
    assert "hunter2" not in str(caught.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", URI)
    with pytest.raises(CommandError, match=r"uri: got 'http://me:\*\*\*@mlflow:5000'"):
        parse(["--data.beton", "x.beton"])


def test_so_it_is_from_python() -> None:
    with pytest.raises(ValueError, match="expected an address without password") as refused:
        PretrainSettings.model_validate({"data": {"beton": "x.beton"}, "storage": "s3://AKIA:hunter2@bucket"})
    assert "hunter2" not in str(refused.value)
    with pytest.raises(TrackingError, match=r"tracking.uri: got 'http://me:\*\*\*@mlflow:5000'; expected"):
        connect(URI)
    assert str(UserError(f"{URI} is away")) == "http://me:***@mlflow:5000 is away"


def test_a_record_of_an_earlier_version_is_read_without_it(shapes_beton: Path) -> None:
    recorded: dict[str, Any] = small_settings(shapes_beton).model_dump(mode="json")
    recorded |= {"tracking": {"uri": URI, "experiment": "x"}, "storage": "s3://AKIA:hunter2@bucket"}
    settings = read_settings(recorded)
    assert (settings.tracking.uri, settings.storage) == ("http://me@mlflow:5000", "s3://AKIA@bucket")


def test_a_sweeps_processes_are_handed_no_keys() -> None:
    """Ray logs what they are handed, and its dashboard shows it."""

    def handed() -> str:
        return str(_ActorClassCache().get(Trainable)._default_options["runtime_env"])

    assert SECRETS["AWS_SECRET_ACCESS_KEY"] in handed()
    with without_keys_in_trials():
        assert not leaks(handed())
