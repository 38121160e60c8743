"""Models that somebody else put into MLflow, in the place of an encoder."""

import json
import shutil
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient

from metaug_ray.evaluation.augmented_probe_worker import read_state
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.tracking.encoders import read_encoder
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.tracking.export import load_published
from tests.security.poison import Poison, refused

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "c7363a0" / "run.tar.xz"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder as version 0.1.0 registered it."""
    folder = tmp_path_factory.mktemp("published")
    with tarfile.open(ARCHIVE) as archive:
        members = [member for member in archive.getmembers() if "/models/" in member.name]
        # Debian 12's Python has no filters yet.
        archive.extractall(folder, members, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return next(folder.rglob("MLmodel")).parent


@pytest.fixture
def model(published: Path, tmp_path: Path) -> Path:
    """A copy of it to plant something in."""
    return Path(shutil.copytree(published, tmp_path / "model"))


def replace_record(archive: Path, name: str, content: bytes) -> None:
    with zipfile.ZipFile(archive) as before:
        records = {info.filename: before.read(info) for info in before.infolist()}
    found = next(record for record in records if record.endswith(name))
    with zipfile.ZipFile(archive, "w") as after:
        for record, data in records.items():
            after.writestr(record, content if record == found else data)


def test_a_graph_that_runs_code(model: Path, tmp_path: Path) -> None:
    torch.save(Poison(tmp_path / "mark"), tmp_path / "poison")
    replace_record(model / "data/model.pt2", "data/sample_inputs/model.pt", (tmp_path / "poison").read_bytes())
    with refused(tmp_path / "mark", TrackingError, str(model), "is a pickle, or holds one", "nothing was run"):
        load_published(str(model))
    with suppress(Exception):  # it is no graph any more
        mlflow.pytorch.load_model(str(model))
    assert (tmp_path / "mark").exists()


def test_a_pickled_model(model: Path, tmp_path: Path) -> None:
    torch.save(Poison(tmp_path / "mark"), model / "data/model.pth")
    (model / "data/pickle_module_info.txt").write_text("mlflow.pytorch.pickle_module")
    with refused(tmp_path / "mark", TrackingError, str(model), "is a pickle, or holds one", "nothing was run"):
        load_published(str(model))


def test_a_model_that_brings_code(model: Path, tmp_path: Path) -> None:
    """MLflow imports it even where pickles are not allowed."""
    description = (model / "MLmodel").read_text()
    assert "    code: null\n" in description
    (model / "MLmodel").write_text(description.replace("    code: null\n", "    code: code\n"))
    (model / "code").mkdir()
    (model / "code/brought.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'mark')!r})\n")
    (model / "data/pickle_module_info.txt").write_text("brought")
    (model / "data/model.pth").touch()
    with refused(tmp_path / "mark", TrackingError, str(model), "brings code of its own", "nothing was run"):
        load_published(str(model))


def test_weights_and_descriptions_that_are_pickles(published: Path, tmp_path: Path) -> None:
    """What this package's own commands read: `extra_files/` alone."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    experiment = client.create_experiment("metaug", artifact_location=(tmp_path / "artifacts").as_uri())
    logged = client.create_logged_model(experiment, "encoder")
    folder = Path(logged.artifact_location.removeprefix("file://"))
    shutil.copytree(published, folder, dirs_exist_ok=True)
    client.finalize_logged_model(logged.model_id, "READY")
    model = f"models:/{logged.model_id}"
    encoder, description = read_encoder(model, uri)
    images = torch.randint(256, (2, 3, 32, 32), dtype=torch.uint8)
    torch.testing.assert_close(load_published(model)(images), encoder(images), rtol=1e-4, atol=1e-5)

    poison = Poison(tmp_path / "mark").pickled()
    for name in ("data/model.pt2", "MLmodel", "conda.yaml"):  # of these it reads none
        (folder / name).write_bytes(poison)
    assert read_encoder(model, uri)[1] == description
    words = (f"{model}: is no encoder that metaug_ray wrote",)
    weights, text = folder / "extra_files/l.safetensors", folder / "extra_files/encoder.json"
    sound = weights.read_bytes()
    weights.write_bytes(poison)
    with refused(tmp_path / "mark", TrackingError, *words):
        read_encoder(model, uri)
    torch.save(Poison(tmp_path / "mark"), weights)
    with refused(tmp_path / "mark", TrackingError, *words):
        read_encoder(model, uri)
    weights.write_bytes(sound)
    for content in (poison, json.dumps(json.loads(text.read_text()) | {"model": {"views": ["../../l"]}}).encode()):
        text.write_bytes(content)
        with refused(tmp_path / "mark", TrackingError, *words):
            read_encoder(model, uri)


def test_the_classifier_of_a_full_linear_evaluation(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    torch.save({"model": {"weight": torch.ones(2)}, "epoch": 3}, tmp_path / "classifier.pt")
    assert read_state(tmp_path, cpu)["epoch"] == 3
    torch.save({"epoch": Poison(tmp_path / "mark")}, tmp_path / "classifier.pt")
    words = (f"{tmp_path}: the checkpoint of a full linear evaluation is damaged or names code", "remove it")
    with refused(tmp_path / "mark", EvaluationError, *words):
        read_state(tmp_path, cpu)
    for content in (b"", Poison(tmp_path / "mark").pickled(), np.arange(9).tobytes()):
        (tmp_path / "classifier.pt").write_bytes(content)
        with refused(tmp_path / "mark", EvaluationError, *words):
            read_state(tmp_path, cpu)
