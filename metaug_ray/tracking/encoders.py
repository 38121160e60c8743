"""Encoders read back from MLflow, as this package's own networks; `export` writes them."""

import re
import tempfile
from pathlib import Path
from typing import Final

import mlflow
from mlflow.tracking import MlflowClient
from safetensors import SafetensorError
from safetensors.torch import load_file

from metaug_ray.method.frozen import FrozenEncoder
from metaug_ray.tracking.connection import connect, moved_files, patient, reason
from metaug_ray.tracking.description import EncoderDescription
from metaug_ray.tracking.errors import TrackingError

DESCRIPTION: Final = "encoder.json"
"""File beside a logged encoder that holds its `EncoderDescription`."""


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
            if not folder.exists() and (moved := _moved(model)):
                raise TrackingError(f"{model}: {moved}")
        except TrackingError:
            raise
        except Exception as error:  # HTTP libraries and databases raise errors of their own
            raise TrackingError(
                f"{model}: MLflow at {mlflow.get_tracking_uri()} does not give it ({reason(error)}); expected "
                "models:/name@alias or models:/name/version of a registered encoder"
            ) from error
        try:
            description = EncoderDescription.model_validate_json((folder / DESCRIPTION).read_text(encoding="utf-8"))
            encoder = description.build()
            for view, network in encoder.encoders.items():
                network.load_state_dict(load_file(folder / f"{view}.safetensors"))
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise TrackingError(f"{model}: is no encoder that metaug_ray wrote ({reason(error)})") from error
    return encoder, description


def _moved(model: str) -> str | None:
    """What to do where MLflow's database was moved without the model's files."""
    uri, client = mlflow.get_tracking_uri(), MlflowClient()
    name, _, which = re.sub("[/@]", " ", model.removeprefix("models:/")).partition(" ")
    model_id: str | None = name
    if which:
        by_alias = "@" in model
        found = client.get_model_version_by_alias(name, which) if by_alias else client.get_model_version(name, which)
        model_id = found.model_id
    return None if model_id is None else moved_files(uri, client.get_logged_model(model_id).artifact_location)
