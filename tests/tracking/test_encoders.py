"""Encoders go to MLflow and come back, here and where this package is not installed."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from metaug_ray.config import ModelSettings
from metaug_ray.method.encoders import EncoderName
from metaug_ray.method.frozen import FrozenEncoder
from metaug_ray.tracking import export
from metaug_ray.tracking.connection import connect, find_experiment
from metaug_ray.tracking.description import EncoderDescription
from metaug_ray.tracking.encoders import load_encoder, read_encoder
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.tracking.export import load_published, log_encoder


def describe(**model: object) -> EncoderDescription:
    return EncoderDescription(
        model=ModelSettings.model_validate(model),
        image_size=64,
        variant="MetAug",
        run="run",
        run_id=None,
        checkpoint="/runs/run/checkpoint_000000005",
        step=5,
        epochs=0.5,
        data_name="x.beton",
        data_sha256="0" * 64,
        settings={"seed": 3, "model": {}},
    )


def trained(description: EncoderDescription) -> FrozenEncoder:
    """Weights and statistics that no initialisation has."""
    torch.manual_seed(0)
    encoder = description.build()
    for name, tensor in encoder.state_dict().items():
        if "running" in name:
            tensor += torch.rand_like(tensor)
    return encoder


def log(encoder: FrozenEncoder, description: EncoderDescription, folder: Path) -> tuple[str, str]:
    uri = f"sqlite:///{folder}/mlflow.db"
    client = connect(uri)
    run = client.create_run(find_experiment(client, uri, "metaug"))
    return log_encoder(encoder, description, "# card\n", run_id=run.info.run_id, uri=uri), uri


def images(*shape: int) -> Tensor:
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


CONSUMER = """
import sys
sys.modules["metaug_ray"] = None  # importing it fails
import mlflow, numpy, torch
mlflow.set_tracking_uri(sys.argv[1])
encoder = mlflow.pytorch.load_model(sys.argv[2])
assert not any(p.requires_grad for p in encoder.parameters())
numpy.save(sys.argv[4], encoder(torch.from_numpy(numpy.load(sys.argv[3]))).detach().numpy())
served = mlflow.pyfunc.load_model(sys.argv[2])
numpy.save(sys.argv[5], served.predict(numpy.load(sys.argv[3])))
"""


@pytest.mark.slow
def test_loads_without_this_package_and_without_pickle(tmp_path: Path) -> None:
    description = describe(encoder="conv", width=0.5, small_images=True)
    encoder = trained(description)
    model, uri = log(encoder, description, tmp_path)
    given = images(5, 3, 40, 33)
    np.save(tmp_path / "images.npy", given.numpy())
    files = [str(tmp_path / name) for name in ("images.npy", "plain.npy", "served.npy")]
    done = subprocess.run(
        [sys.executable, "-c", CONSUMER, uri, model, *files],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false"},
    )
    assert done.returncode == 0, done.stderr
    expected = encoder(given).numpy()
    for file in files[1:]:
        np.testing.assert_allclose(np.load(file), expected, rtol=1e-4, atol=1e-5)

    logged = connect(uri).get_logged_model(model.removeprefix("models:/"))
    assert (str(logged.status), logged.tags["metaug.variant"]) == ("READY", "MetAug")
    loaded, again = read_encoder(model, uri)
    assert again == description
    assert torch.equal(loaded(given), encoder(given))


@pytest.mark.slow
def test_an_interrupted_export_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    description = describe(encoder="conv", width=0.5, small_images=True)
    monkeypatch.setattr(export, "_check_equal", interrupt)
    with pytest.raises(KeyboardInterrupt):
        log(trained(description), description, tmp_path)
    client = connect(f"sqlite:///{tmp_path}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    assert not client.search_logged_models(experiments)


TORCHVISION = """
import runpy, sys, torch
for package in ("metaug_ray", "mlflow", "ray", "ffcv", "pydantic"):
    sys.modules[package] = None  # importing it fails
example, weights, images, representations = sys.argv[1:]
sys.argv = [example, weights]
made = runpy.run_path(example)
torch.save(made["represent"](made["network"], torch.load(images)), representations)
"""


@pytest.mark.slow
def test_resnet50_goes_into_torchvisions(tmp_path: Path) -> None:
    """With two crops through one encoder the published network is that encoder, as it is."""
    description = describe(encoder="resnet50", views=("rgb", "rgb.2"))
    encoder = trained(description)
    model, uri = log(encoder, description, tmp_path)
    published = load_published(model)
    for given in (
        *(images(count, 3, size, size) for size in (2, 33, 70) for count in (1, 3)),
        images(3, 3, 96, 70),
        images(3, 80, 96, 3).permute(0, 3, 1, 2),
    ):
        torch.testing.assert_close(published(given), encoder(given), rtol=1e-4, atol=1e-5)
    (file,) = tmp_path.rglob("*.safetensors")
    with safe_open(file, "pt") as opened:
        assert opened.metadata()["input"] == "uint8 / 127.5 - 1"
    given = images(2, 3, 64, 64)
    torch.save(given, tmp_path / "images.pt")
    files = [str(path) for path in (file, tmp_path / "images.pt", tmp_path / "representations.pt")]
    example = str(Path(__file__).parents[2] / "examples/torchvision_network.py")
    done = subprocess.run(
        [sys.executable, "-c", TORCHVISION, example, *files], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(files[-1]), encoder(given))
    assert load_encoder(model, uri).views == ("rgb",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "views", "small_images", "sizes"),
    [
        ("resnet18", ("l", "ab"), True, (2, 9, 16, 23, 33, 65, 100)),
        ("conv", ("l", "ab"), True, (15, 19, 23, 31, 47, 63, 95)),
        ("fc", ("y", "dbdr"), False, (63, 67, 71, 95, 127, 191, 230)),
    ],
)
def test_the_published_graph_takes_every_size(
    encoder: EncoderName, views: tuple[str, ...], small_images: bool, sizes: tuple[int, ...], tmp_path: Path
) -> None:
    """Whether maps shrink to 1x1 or not, and for one image as for many."""
    description = describe(encoder=encoder, views=views, width=0.5, small_images=small_images)
    frozen = trained(description)
    published = load_published(log(frozen, description, tmp_path)[0])
    for size in sizes:
        for given in (images(1, 3, size, size), images(3, 3, size, sizes[0]), images(2, 3, sizes[0], size + 130)):
            torch.testing.assert_close(published(given), frozen(given), rtol=1e-4, atol=1e-5)


def test_wrong_images_are_refused_by_the_network() -> None:
    encoder = trained(describe(encoder="conv", width=0.5, small_images=True))
    for wrong in (images(2, 3, 32, 32).float(), images(2, 1, 32, 32), images(3, 32, 32)):
        with pytest.raises(ValueError, match=r"images must be uint8 \[B, 3, H, W\], got torch"):
            encoder(wrong)
    with pytest.raises(TypeError, match=r"must be a torch tensor, got ndarray; torch\.from_numpy"):
        encoder(images(2, 3, 32, 32).numpy())
    with pytest.raises(ValueError, match="at least 15 px, got 9x9"):
        encoder(images(2, 3, 9, 9))


@pytest.mark.parametrize("model", ["models:/nobody@champion", "models:/nobody/3"])
def test_an_unknown_model_is_named(tmp_path: Path, model: str) -> None:
    connect(f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(TrackingError, match=rf"{model}: MLflow at sqlite.* does not give it .*nobody"):
        load_encoder(model, f"sqlite:///{tmp_path}/mlflow.db")


@pytest.mark.parametrize("model", ["nobody", "models:/nobody@champion/3", "models:/", ""])
def test_what_names_no_model_is_refused(tmp_path: Path, model: str) -> None:
    with pytest.raises(TrackingError, match="names no encoder; expected models:/name@alias"):
        load_encoder(model, f"sqlite:///{tmp_path}/mlflow.db")


def test_a_mistyped_database_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"there is no MLflow database .*mlfow.db; check the path"):
        load_encoder("models:/nobody@champion", f"sqlite:///{tmp_path}/mlfow.db")
    assert not list(tmp_path.iterdir())


def test_a_registry_that_is_away_is_named() -> None:
    with pytest.raises(TrackingError, match=r"MLflow at http://127.0.0.1:9 cannot be used"):
        load_encoder("models:/x@champion", "http://127.0.0.1:9")
