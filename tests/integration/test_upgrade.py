"""What version 0.1.0 left behind (`tests/fixtures/c7363a0`): resumed, compared, loaded, promoted over."""

import json
import sqlite3
import tarfile
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow.tracking import MlflowClient

from metaug_ray.commands.pretrain import parse
from metaug_ray.config import CompareSettings, EvaluateSettings, PretrainSettings, RegisterSettings
from metaug_ray.config.tracking import TrackingSettings
from metaug_ray.data.loader import EvaluationLoader
from metaug_ray.data.manifest import read_manifest
from metaug_ray.errors import UserError
from metaug_ray.evaluation.compare import compare
from metaug_ray.evaluation.evaluate import evaluate
from metaug_ray.evaluation.find_encoder import find_encoder
from metaug_ray.evaluation.register import register_encoder
from metaug_ray.tracking.encoders import load_encoder
from metaug_ray.training.state import build_state
from metaug_ray.training.trainer import pretrain
from metaug_ray.training.warm_start import find_warm_start
from tests.integration.jobs import logged_losses
from tests.training.small import tensors_of

pytestmark = pytest.mark.slow

FIXTURE = Path(__file__).parents[1] / "fixtures" / "c7363a0"
ARCHIVE, STEP_25 = FIXTURE / "run.tar.xz", FIXTURE / "step_25.json"


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that 0.1.0 wrote, as if it had been written here."""
    folder = tmp_path_factory.mktemp("old")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    record = json.loads((folder / "runs/old-1/run.json").read_text())
    made_in = record["data"]["beton"].removesuffix("/data/train.beton")
    for file in folder.rglob("*"):
        if file.suffix in (".json", ".yaml", ".jsonl") or file.name == "MLmodel":
            file.write_text(file.read_text().replace(made_in, str(folder)))
    with sqlite3.connect(folder / "mlflow.db") as database:
        tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in database.execute(f"PRAGMA table_info({table})").fetchall():
                if "CHAR" in kind or "TEXT" in kind:
                    change = f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?)'
                    database.execute(change, (made_in, str(folder)))
    return folder


def again(left: Path, *arguments: str) -> PretrainSettings:
    """The settings of `old-1`, by the file that it was started with."""
    given = ["--config", str(left / "run.yaml"), "--name", "old-1", "--seed", "1", *arguments]
    given += ["--storage", str(left / "runs"), "--tracking.uri", f"sqlite:///{left}/mlflow.db"]
    return parse([*given, "--checkpoint.every-steps", "1000"])[0]


def test_other_settings_are_still_refused(left: Path) -> None:
    with pytest.raises(UserError) as caught:
        pretrain(again(left, "--method.unified.gamma", "0.4"))
    assert str(caught.value).splitlines()[1:-1] == ["  method.unified.gamma: 0.3 -> 0.4"]


def test_a_new_run_begins_with_its_weights(left: Path) -> None:
    settings = again(left, "--method.unified.beta", "2").model_copy(update={"name": "new", "fork": "old-1"})
    manifest = read_manifest(left / "data/train.beton")
    warm_start = find_warm_start(settings, "old-1", manifest)
    assert (warm_start.checkpoint, warm_start.targets, warm_start.generators) == ("checkpoint_000000024", True, True)
    state = build_state(settings, manifest.samples, torch.device("cpu"))
    before = {name: value.clone() for name, value in state.networks()["encoder"].items()}
    assert warm_start.load(state) == "begins with the weights of old-1, checkpoint_000000024"
    trained = find_encoder("run:old-1", str(left / "runs"), settings.tracking.uri).encoder.state_dict()
    for name, value in trained.items():
        assert torch.equal(state.networks()["encoder"][name], value), name
    assert any(not torch.equal(before[name], trained[name]) for name in trained)
    other = settings.model_copy(update={"method": settings.method.model_copy(update={"generator_hidden_size": 8})})
    assert not find_warm_start(other, "old-1", manifest.model_copy(update={"sha256": "0" * 64})).generators


def test_an_interrupted_run_goes_on_as_it_would_have(ray_session: tuple[str, Path], left: Path) -> None:
    expected = json.loads((left / "expected.json").read_text())
    settings = again(left)
    checkpoints = settings.checkpoint.model_copy(update={"every_steps": 25, "keep": 4})
    outcome = pretrain(settings.model_copy(update={"checkpoint": checkpoints}))
    assert outcome.checkpoints[-3:] == [f"checkpoint_0000000{step}" for step in (25, 50, 60)]
    whole = {int(step): loss for step, loss in expected["losses"].items()}
    assert len(whole) == 60 - expected["checkpoint_step"] > 30
    measured = logged_losses(left / "runs/old-1")
    # Tolerances are some five times the greatest differences that 0.1.0 itself shows between processors' rounding.
    # One ReLU that flips by it changes a gradient, and so the momentum, by a thousandth: at once it can be compared,
    # after 36 steps no longer (0.2 of its norm in the sum).
    assert {step: measured[step] for step in whole} == pytest.approx(whole, rel=1e-4)
    check_sums(left / "runs/old-1/checkpoint_000000025", json.loads(STEP_25.read_text()), 1e-4, momentum=3e-2)
    check_sums(left / "runs/old-1/checkpoint_000000060", expected["final"], 2e-3, momentum=1.0)
    # One MLflow run, from beginning to end.
    run = MlflowClient(settings.tracking.uri).get_run(outcome.run_id)
    assert (run.info.status, run.data.tags["metaug.starts"]) == ("FINISHED", "2")
    history = MlflowClient(settings.tracking.uri).get_metric_history(outcome.run_id, "loss/total")
    assert [metric.step for metric in history] == list(range(1, 61))


def check_sums(checkpoint: Path, expected: dict[str, tuple[float, float]], tolerance: float, momentum: float) -> None:
    """Every tensor's sum and, to a tenth of the tolerance, norm, as parts of its norm; SGD's momentum has its own."""
    tensors = tensors_of(checkpoint, checkpoint.with_suffix(".pt"))
    wrong = {}
    for name, (total, squares) in expected.items():
        values, allowed = tensors[name].double(), momentum if name.endswith("momentum_buffer") else tolerance
        sums = abs(values.sum().item() - total) / (squares**0.5 + 1e-9)
        norms = abs(values.norm().item() - squares**0.5) / (squares**0.5 + 1e-9)
        if sums > allowed or norms > allowed / 10:
            wrong[name] = (
                f"the sum differs by {sums:.1e} and the norm by {norms:.1e} of the norm, {allowed:.0e} allowed"
            )
    assert not wrong


def test_its_registered_encoder_loads(left: Path) -> None:
    uri = f"sqlite:///{left}/mlflow.db"
    encoder = load_encoder("models:/old-encoder@champion", uri)
    images = next(iter(EvaluationLoader(left / "data/test.beton", 4, 32, cpus=1, device=torch.device("cpu")))).images
    published = mlflow.pytorch.load_model("models:/old-encoder@champion")
    torch.testing.assert_close(published(images), encoder(images), rtol=1e-4, atol=1e-5)
    untrained = find_encoder("random:old-0", str(left / "runs"), uri)
    assert not torch.equal(untrained.encoder(images), encoder(images))


def test_new_seeds_stand_in_its_row_and_compete_with_its_champion(
    ray_session: tuple[str, Path], left: Path, tmp_path: Path
) -> None:
    uri = f"sqlite:///{left}/mlflow.db"
    client = MlflowClient(uri)
    # Another version might have hashed the same protocol otherwise.
    for kind in ("knn", "linear"):
        client.set_model_version_tag("old-encoder", "1", f"metaug.judged.{kind}", "an earlier hash")
        experiment = client.get_experiment_by_name("metaug")
        (evaluation,) = client.search_runs([experiment.experiment_id], "tags.`metaug.kind` = 'evaluation'")
        client.set_tag(evaluation.info.run_id, f"metaug.judged.{kind}", "an earlier hash")
    # So that it is promoted over.
    client.set_model_version_tag("old-encoder", "1", "linear/top1", "0.01")
    tracking = TrackingSettings(uri=uri)
    settings = EvaluateSettings.model_validate(
        {
            "encoder": "run:old-1",
            "train": str(left / "data/train.beton"),
            "test": str(left / "data/test.beton"),
            "storage": str(left / "runs"),
            "cache": tmp_path / "cache",
            "probe": {"seeds": 1, "epochs": 3, "label_shares": (1.0,)},
            "views": False,
            "plots": False,
            "tracking": tracking,
        }
    )
    judged = {result.name: result.top1[0] for result in evaluate(settings).results}
    table = compare(CompareSettings(metrics=("knn/top1", "linear/top1"), output=tmp_path / "out", tracking=tracking))
    rows = [line.split(" | ") for line in table.splitlines() if "MetAug, centered" in line]
    assert [(row[3], row[4]) for row in rows] == [("20", "2")], table

    wish = {"encoder": "run:old-1", "name": "old-encoder", "promote": "linear/top1", "storage": str(left / "runs")}
    registered = register_encoder(RegisterSettings.model_validate(wish | {"tracking": tracking}))
    assert registered.version == "2"
    assert registered.promotion is not None
    assert registered.promotion.promoted
    now = client.get_model_version_by_alias("old-encoder", "champion")
    assert str(now.version) == "2"
    assert float(now.tags["linear/top1"]) == pytest.approx(judged["linear"], abs=1e-5)
