from pathlib import Path

import pytest

from metaug_ray.commands.base import CommandError
from metaug_ray.commands.plan_capacity import main, parse


def test_a_plan_needs_no_data(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAUG_PLAN__PRICE", "2")
    assert main(["--plan.gpus", "[1,8]", "--data.image-size", "224"]) == 0
    said = capsys.readouterr().out
    assert "ImageNet's, as there is no" in said
    assert "2 an hour" in said


def test_settings_of_the_run_are_those_of_the_main_job(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("training: {batch_size: 1024}\n")
    settings, only_print = parse(
        ["--preset", "recommended", "--config", str(file), "--plan.step-seconds", '{"64": 0.2, "128": 0.35}']
    )
    assert not only_print
    assert settings.run.training.batch_size == 1024
    assert settings.run.method.contrast == "info_nce"
    assert settings.plan.step_seconds == {64: 0.2, 128: 0.35}


def test_what_is_wrong_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandError, match=r"plan.efficiency: got '2'; expected at most 1"):
        parse(["--plan.efficiency", "2"])
    with pytest.raises(CommandError, match=r"plan.gpus: 8 stands there more than once"):
        parse(["--plan.gpus", "[8,8]"])
    assert main(["--model.encoder", "resnet18"]) == 1
    assert capsys.readouterr().err.startswith("plan_capacity.py: plan.step_seconds: not given")
    assert main(["--data.beton", __file__]) == 1
    assert "prepare the data again" in capsys.readouterr().err
