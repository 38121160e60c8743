"""Encoders in MLflow: written so that they load without this package, and read back.

A logged encoder is a folder:

    data/model.pt2             the network as a graph (torch.export): what `mlflow.pytorch.load_model` gives
    extra_files/<view>.safetensors   the weights of each view, for fine-tuning
    extra_files/encoder.json         its `EncoderDescription`
    extra_files/card.md              the model card
"""

import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

import mlflow
import numpy as np
import torch
from mlflow.models import ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.fx.experimental import _config as export_settings

from metaug_ray.method.frozen import FrozenEncoder
from metaug_ray.tracking.description import EncoderDescription
from metaug_ray.tracking.runs import TrackingError, connect, patient, reason

_DESCRIPTION: Final = "encoder.json"
_CARD: Final = "card.md"
_SIGNATURE: Final = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, 3, -1, -1))]),
    outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, -1))]),
)


def log_encoder(
    encoder: FrozenEncoder,
    description: EncoderDescription,
    card: str,
    figures: Sequence[Path] = (),
    *,
    run_id: str,
    uri: str,
) -> str:
    """Write an encoder into an MLflow run, and read it back.

    Args:
        encoder: on the CPU.
        description: of it.
        card: Markdown.
        figures: that the card shows.
        run_id: of the MLflow run that it belongs to.
        uri: of MLflow.

    Returns:
        `models:/...`, the logged model; it is not registered yet.

    Raises:
        TrackingError: MLflow does not take it, or what it gives back computes something else.
    """
    client = connect(uri)
    # Two images, as an export from one would take one at a time only.
    example = _images(2, description.image_size, description.image_size)
    with tempfile.TemporaryDirectory() as scratch:
        files = _write_files(encoder, description, card, Path(scratch))
        try:
            # Otherwise the files would go where the experiment "Default" has its own.
            experiment = client.get_run(run_id).info.experiment_id
            mlflow.set_experiment(experiment_id=experiment)
            with patient(), _quiet(), _any_size(), _logged(client, experiment, run_id, description) as model_id:
                info = mlflow.pytorch.log_model(
                    encoder,
                    model_id=model_id,
                    signature=_SIGNATURE,
                    input_example=example,
                    serialization_format="pt2",
                    # What loading needs, at the versions that wrote it.
                    pip_requirements=[f"{package}=={version(package)}" for package in ("mlflow", "torch")],
                    extra_files=[str(file) for file in (*files, *figures)],
                    step=description.step,
                    run_id=run_id,
                )
                _check_equal(encoder, info.model_uri, description.image_size)
        except TrackingError:
            raise
        except Exception as error:  # export, database and artifact store raise errors of their own
            raise TrackingError(f"MLflow at {uri} does not take the encoder ({reason(error)})") from error
    return str(info.model_uri)


def load_encoder(model: str, uri: str | None = None) -> FrozenEncoder:
    """An encoder from MLflow, as this package's own network, frozen and on the CPU: exactly what was trained.

    Args:
        model: `models:/name@alias`, `models:/name/version`, or `models:/id` of a logged one.
        uri: of MLflow; default the one that is set (MLFLOW_TRACKING_URI).

    Raises:
        TrackingError: MLflow cannot be reached, knows no such model, or it is none that this package wrote.
    """
    return read_encoder(model, uri)[0]


def read_encoder(model: str, uri: str | None = None) -> tuple[FrozenEncoder, EncoderDescription]:
    """As :func:`load_encoder`, with its description."""
    if not re.fullmatch(r"models:/[^/@]+([/@][^/@]+)?", model):
        raise TrackingError(f"{model!r} names no encoder; expected models:/name@alias or models:/name/version")
    if uri is not None:
        connect(uri, new=False)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            with patient():
                folder = Path(mlflow.artifacts.download_artifacts(artifact_uri=model, dst_path=scratch)) / "extra_files"
        except Exception as error:  # HTTP libraries and databases raise errors of their own
            raise TrackingError(
                f"{model}: MLflow at {mlflow.get_tracking_uri()} does not give it ({reason(error)}); expected "
                "models:/name@alias or models:/name/version of a registered encoder"
            ) from error
        try:
            description = EncoderDescription.model_validate_json((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            encoder = description.build()
            for view, network in encoder.encoders.items():
                network.load_state_dict(load_file(folder / f"{view}.safetensors"))
        except (OSError, ValidationError, RuntimeError, SafetensorError) as error:
            raise TrackingError(f"{model}: is no encoder that metaug_ray wrote ({reason(error)})") from error
    return encoder, description


def _write_files(encoder: FrozenEncoder, description: EncoderDescription, card: str, folder: Path) -> list[Path]:
    for view, network in encoder.encoders.items():
        save_file(network.state_dict(), folder / f"{view}.safetensors", metadata={"view": view, "run": description.run})
    (folder / _DESCRIPTION).write_text(description.model_dump_json(indent=2) + "\n", encoding="utf-8")
    (folder / _CARD).write_text(card, encoding="utf-8")
    return sorted(folder.iterdir())


def _check_equal(encoder: FrozenEncoder, model: str, image_size: int) -> None:
    """What anyone will load must be what was trained, whatever the number and size of images."""
    published = load_published(model)
    smallest = max(encoder.minimum_size, 2)
    for count, height, width in ((3, image_size, image_size), (1, smallest, smallest), (1, smallest + 65, smallest)):
        images = torch.from_numpy(_images(count, height, width))
        with torch.inference_mode():
            ours = encoder(images)
            theirs = published(images)
        if not torch.allclose(theirs, ours, rtol=1e-4, atol=1e-5):
            raise TrackingError(
                f"{model}: its representations of {count} images of {height}x{width} px differ from the encoder's by "
                f"up to {(theirs - ours).abs().max():.2g}; it is not registered"
            )


def load_published(model: str) -> torch.nn.Module:
    """An encoder as a consumer loads it, without unpickling code."""
    before = os.environ.get("MLFLOW_ALLOW_PICKLE_DESERIALIZATION")
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    try:
        loaded: torch.nn.Module = mlflow.pytorch.load_model(model)
    finally:
        if before is None:
            del os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"]
        else:
            os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = before
    return loaded


@contextmanager
def _logged(client: MlflowClient, experiment: str, run_id: str, description: EncoderDescription) -> Iterator[str]:
    """A logged model to be filled; one that is not filled, or wrongly, does not stay."""
    tags = {"metaug.variant": description.variant, "metaug.config": description.config_hash}
    model_id = str(client.create_logged_model(experiment, "encoder", run_id, tags).model_id)
    try:
        yield model_id
    except BaseException:
        with suppress(Exception):  # what broke off may be what would be asked to delete it
            client.delete_logged_model(model_id)
        raise


@contextmanager
def _quiet() -> Iterator[None]:
    """MLflow and `torch.export` warn of what means nothing here, such as that an environment by uv has no pip."""
    logger = logging.getLogger("mlflow.utils.environment")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _any_size() -> AbstractContextManager[None]:
    """Otherwise a graph is bound to images whose maps are 1x1 where the example's are, and nowhere else."""
    patch: AbstractContextManager[None] = export_settings.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    return patch


def _images(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8)
