import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from metaug_ray.commands.base import CommandError
from metaug_ray.commands.pretrain import parse
from metaug_ray.config import PretrainSettings
from metaug_ray.config.recorded import to_yaml
from tests.log import Log

JOB = Path(__file__).resolve().parents[2] / "jobs" / "imagenet_resnet50.py"
BETON = ["--data.beton", "/x.beton"]


def job(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(JOB), *arguments], capture_output=True, text=True, timeout=120, cwd=cwd)


def test_the_defaults_are_the_papers_imagenet_setting() -> None:
    settings, only_print = parse(BETON)
    assert not only_print
    assert settings.model.views == ("rgb", "l", "ab")
    assert (settings.model.encoder, settings.model.width, settings.data.image_size) == ("resnet50", 1.0, 224)
    assert (settings.training.batch_size, settings.bank.negatives) == (128, 4096)
    assert settings.data.augmentation.crop_scale == (0.08, 1.0)
    assert (settings.method.contrast, settings.method.generators) == ("unified", True)


def test_the_command_line_beats_the_environment_beats_the_file_beats_the_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("method: {unified: {beta: 2, gamma: 0.2}, unified_attenuated: {phi: 2}}\nbank: {negatives: 7}\n")
    monkeypatch.setenv("METAUG_METHOD__UNIFIED__BETA", "4")
    monkeypatch.setenv("METAUG_METHOD__UNIFIED__GAMMA", "0.3")
    monkeypatch.setenv("METAUG_NAME", "mine")
    settings, _ = parse(["--preset", "demo", "--config", str(file), "--method.unified.beta", "8"])
    assert (settings.method.unified.beta, settings.method.unified.gamma) == (8, 0.3)
    assert settings.method.unified_attenuated.phi == 2
    assert (settings.name, settings.bank.negatives) == ("mine", 7)
    # Of the preset, what nobody changed.
    assert (settings.model.encoder, settings.training.encoder.kind, settings.method.meta.every) == (
        "conv",
        "adam",
        10,
    )


@pytest.mark.parametrize(
    ("preset", "targets"), [("cifar10_nnclr", "batch"), ("recommended", "neighbours"), ("demo", "batch")]
)
def test_other_targets_leave_out_what_the_preset_has_for_its_own(preset: str, targets: str) -> None:
    given = ["--preset", preset, "--data.beton", "/x.beton", "--model.views", "rgb,rgb.2", "--method.targets", targets]
    settings, _ = parse(given)
    assert settings.method.targets == targets
    assert settings.bank == PretrainSettings.model_fields["bank"].default
    own = ["--preset", preset, "--data.beton", "/x.beton"]
    assert parse([*own, "--method.targets", "bank"][: 4 if preset == "cifar10_nnclr" else 6])[0] == parse(own)[0]
    # What the user says himself is not left out.
    with pytest.raises(CommandError, match=r"support\.size: 300 is a setting of|bank\.negatives: 7 is a setting of"):
        parse([*given, *(["--bank.negatives", "7"] if targets == "neighbours" else ["--support.size", "300"])])


def test_printed_settings_reproduce_the_run(tmp_path: Path) -> None:
    given = [
        *("--preset", "demo", "--model.views", "rgb,l,ab", "--no-method.generators", "--training.clip-norm", "3"),
        *(
            "--data.augmentation.color-jitter.hue",
            "0.2",
            "--training.schedule.milestones",
            "3,5",
            "--checkpoint.keep",
            "5",
        ),
    ]
    settings, _ = parse(given)
    file = tmp_path / "run.yaml"
    file.write_text(to_yaml(settings))
    again, _ = parse(["--config", str(file)])
    assert again == settings
    assert settings.data.augmentation.color_jitter is not None
    assert settings.data.augmentation.color_jitter.hue == 0.2
    printed = job(*given, "--print-config")
    assert printed.returncode == 0, printed.stderr
    assert PretrainSettings.model_validate(yaml.safe_load(printed.stdout)) == settings


def test_every_field_is_an_option_with_words_and_default() -> None:
    shown = job("--help")
    assert shown.returncode == 0
    words = " ".join(shown.stdout.split())

    def check(model: type, prefix: str) -> int:
        count = 0
        for name, field in model.model_fields.items():  # type: ignore[attr-defined]
            assert field.description, prefix + name
            inner = next(
                (
                    part
                    for part in (field.annotation, *getattr(field.annotation, "__args__", ()))
                    if hasattr(part, "model_fields")
                ),
                None,
            )
            if inner is not None:
                count += check(inner, f"{prefix}{name}.")
            else:
                assert f"--{prefix}{name}".replace("_", "-") in words, prefix + name
                count += 1
        return count

    assert check(PretrainSettings, "") > 80
    assert "epochs between evaluations by kNN and RankMe and similarity histograms; 0: none (default: 5)" in words


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "data.beton: is missing, and has no default"),
        ([*BETON, "--method.unified.beta", "0"], "method.unified.beta: got '0'; expected more than 0"),
        ([*BETON, "--method.unified.beta", "x"], "method.unified.beta: got 'x'; expected a number"),
        ([*BETON, "--preset", "cifar"], "preset: got 'cifar'; expected 'imagenet_resnet50', 'imagenet_metaug_fast',"),
        ([*BETON, "--config", "/nowhere.yaml"], "config: /nowhere.yaml cannot be read"),
        ([*BETON, "--config", "~nobody-here/x.yaml"], "~nobody-here/x.yaml cannot be read"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse(arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: {unified: {bata: 2}}", "/run.yaml: method.unified.bata: there is no such setting (got 2)"),
        ("metod: {beta: 2}", "/run.yaml: metod: there is no such setting"),
        ("- 1", "holds no settings by name; write one with --print-config"),
        ("a: [", "cannot be read (while parsing"),
        ("method: 3", "/run.yaml: method: got 3; expected settings by name"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(CommandError) as caught:
        parse([*BETON, "--config", str(file)])
    assert message in str(caught.value)


def test_a_file_is_named_for_what_it_alone_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("training: {epochs: 0, batch_size: 1}\nmodel: {views: [rgb, red]}\nbank: {negatives: 0}\n")
    monkeypatch.setenv("METAUG_TRAINING__BATCH_SIZE", "0")
    with pytest.raises(CommandError) as caught:
        parse([*BETON, f"--config={file}", "--bank.negatives", "-1"])
    assert str(caught.value).splitlines() == [
        f"{file}: model.views.1: unknown view 'red': choose from rgb, l, ab, y, dbdr",
        "bank.negatives: got '-1'; expected at least 1",
        f"{file}: training.epochs: got 0; expected at least 1",
        "METAUG_TRAINING__BATCH_SIZE: got '0'; expected at least 2",
    ]


def test_a_variable_that_no_command_reads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of other commands.
    monkeypatch.setenv("METAUG_PROBE__SEEDS", "3")
    monkeypatch.setenv("METAUG_WORKERS", "1")
    parse(BETON)
    monkeypatch.setenv("METAUG_TRAINNING__EPOCHS", "3")
    monkeypatch.setenv("METAUG_AAAA", "3")
    with pytest.raises(CommandError) as caught:
        parse(BETON)
    assert str(caught.value).splitlines() == [
        "METAUG_TRAINNING__EPOCHS: no command has such a setting; did you mean METAUG_TRAINING__EPOCHS (--help lists "
        "all options)",
    ]


def test_the_address_of_mlflow_by_option_variable_and_mlflows_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:1")
    settings, _ = parse(BETON)
    assert settings.tracking.uri == "http://mlflow:1"
    # A run's own record may say more.
    assert "uri" not in settings.tracking.model_fields_set
    monkeypatch.setenv("METAUG_TRACKING__URI", "http://ours:2")
    assert parse(BETON)[0].tracking.uri == "http://ours:2"
    given, _ = parse([*BETON, "--tracking.uri", "http://option:3"])
    assert given.tracking.uri == "http://option:3"
    assert "uri" in given.tracking.model_fields_set


def test_exit_status_and_one_sentence(tmp_path: Path) -> None:
    wrong = job("--data.beton", "x", "--training.epochs", "0", "--unknown", "1")
    assert wrong.returncode == 2
    assert "--unknown" in wrong.stderr
    missing = job("--data.beton", "data/x.beton", cwd=tmp_path)
    assert missing.returncode == 1
    assert missing.stderr.splitlines() == [
        f"imagenet_resnet50.py: {tmp_path}/data/x.beton: no such beton; make it with jobs/prepare_data.py"
    ]


def test_preset_and_file_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAUG_PRESET", "demo")
    assert parse([])[0].name == "demo"
    file = tmp_path / "run.yaml"
    file.write_text("name: filed\n")
    monkeypatch.setenv("METAUG_CONFIG", str(file))
    settings, _ = parse([])
    assert (settings.name, settings.model.encoder) == ("filed", "conv")
    assert parse(["--preset", "imagenet_resnet50", *BETON])[0].model.encoder == "resnet50"
    # A file may name the preset that it builds on.
    monkeypatch.delenv("METAUG_PRESET")
    file.write_text("preset: demo\nseed: 3\n")
    settings, _ = parse([])
    assert (settings.name, settings.seed) == ("demo", 3)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("--checkpoint.storage=/x", "--checkpoint.storage: is called --storage now"),
        ("--health.knn-every=3", "--health.knn-every: is called --health.knn.every now"),
        (
            "--no-method.centered",
            "--no-method.centered: each contrast has a parameter of its own now, --method.unif",
        ),
        ("--method.meta.mode=jvp", "--method.meta.mode: does not exist any more (CHANGELOG.md says why); leave it out"),
    ],
)
def test_old_options_answer_with_their_new_names(old: str, new: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse([*BETON, old])
    assert str(caught.value).startswith(new)


def test_old_variables_answer_with_their_new_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAUG_METHOD__TEMPERATURE", "0.1")
    with pytest.raises(
        CommandError,
        match=r"METAUG_METHOD__TEMPERATURE: each contrast has a parameter of its own now, METAUG_ME",
    ):
        parse(BETON)


def test_files_that_earlier_versions_printed_are_read(tmp_path: Path, log: Log) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(
        "data: {beton: /x.beton}\n"
        "method: {contrast: nce, beta: 4, temperature: 0.2, meta: {mode: difference, every: 2}}\n"
        "health: {log_every: 5, knn_every: 7, knn_beton: null}\ncheckpoint: {storage: /runs, keep: 3}\n"
    )
    settings, _ = parse(["--config", str(file), "--method.unified.gamma", "0.5"])
    assert (settings.storage, settings.checkpoint.keep, settings.health.knn.every) == ("/runs", 3, 7)
    assert (settings.method.nce.temperature, settings.method.unified.beta, settings.method.meta.every) == (0.2, 4, 2)
    # What has no effect is told when the run starts.
    assert settings.method.idle_parameters["method.unified.gamma"] == 0.5
    assert "method.nce.temperature" not in settings.method.idle_parameters
    assert any("method.meta.mode difference was given up" in line for line in log.messages)


@pytest.mark.parametrize(
    ("text", "message"),
    [("preset: [a]\n", "/run.yaml: preset: got "), ("preset: cifar\n", "/run.yaml: preset: got ")],
)
def test_a_preset_in_a_file_that_is_none_is_named(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text)
    with pytest.raises(CommandError, match=message):
        parse([*BETON, "--config", str(file)])


def test_all_old_options_are_answered_at_once() -> None:
    with pytest.raises(CommandError) as caught:
        parse([*BETON, "--method.beta", "3", "--health.knn-every", "1"])
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "--health.knn-every",
        "--method.beta",
    ]


@pytest.mark.parametrize(
    ("option", "meant"),
    [
        ("--method.unified.beat", "--method.unified.beta"),
        ("--method.info_nce.temperature", "--method.info-nce.temperature"),
    ],
)
def test_an_option_that_is_none_is_answered_in_a_line(option: str, meant: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse([*BETON, option, "3"])
    assert str(caught.value) == f"unrecognized arguments: {option} 3; did you mean {meant} (--help lists all options)"


def test_none_is_written_as_the_help_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAUG_CHECKPOINT__EVERY_MINUTES", "none")
    settings, _ = parse([*BETON, "--training.clip-norm", "none", "--checkpoint.every-steps", "5"])
    assert (settings.training.clip_norm, settings.checkpoint.every_minutes) == (None, None)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAUG_TRAINING__EPOCH", "2")
    with pytest.raises(CommandError, match="METAUG_TRAINING__EPOCH: there is no such setting"):
        parse(BETON)


def test_parameters_without_effect_are_those_that_somebody_set(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    file.write_text("method: {contrast: unified, beta: 8.0, centered: true}\n")
    assert parse([*BETON, "--config", str(file)])[0].method.idle_parameters == {}
    given = ["--method.contrast", "info_nce", "--method.unified.beta", "8"]
    assert parse([*BETON, *given])[0].method.idle_parameters == {"method.unified.beta": 8}


def test_what_generators_alone_have_is_told_of_without_them() -> None:
    given = ["--method.delta", "0.1", "--method.meta.every", "2"]
    assert parse([*BETON, *given])[0].method.idle_without_generators == {}
    without = parse([*BETON, *given, "--no-method.generators"])[0].method.idle_without_generators
    assert without == {"method.delta": 0.1, "method.meta.every": 2}
