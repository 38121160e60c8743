"""Encoders written to MLflow so that they load without this package: exported, logged, loaded back and compared.

A logged encoder is a folder:

    data/model.pt2             the network as a graph (torch.export): what `mlflow.pytorch.load_model` gives
    extra_files/<encoder>.safetensors the weights of each encoder, for fine-tuning
    extra_files/encoder.json         its `EncoderDescription`
    extra_files/card.md              the model card
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

import mlflow
import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec
from safetensors.torch import save_file

from metaug_ray.config.references import EARLIER
from metaug_ray.method.frozen import FrozenEncoder
from metaug_ray.private import export_for_any_size
from metaug_ray.tracking.connection import connect, environment_variables, patient, reason
from metaug_ray.tracking.description import EncoderDescription
from metaug_ray.tracking.encoders import DESCRIPTION
from metaug_ray.tracking.errors import TrackingError

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
            with (
                patient(),
                _quiet(),
                export_for_any_size(),
                _logged(client, experiment, run_id, description) as model_id,
            ):
                info = mlflow.pytorch.log_model(
                    encoder,
                    model_id=model_id,
                    signature=_SIGNATURE,
                    input_example=example,
                    serialization_format="pt2",
                    # It would load the graph, which takes seconds, as the check below does, which looks at more.
                    validate_serving_input=False,
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


def check_computes(encoder: FrozenEncoder, image_size: int) -> None:
    """Refuse an encoder that gives no numbers, before anything is exported.

    Args:
        encoder: on the CPU.
        image_size: side in pixels of the images that it was trained on.

    Raises:
        TrackingError: its representations are not finite.
    """
    with torch.inference_mode():
        representations = encoder(torch.from_numpy(_images(2, image_size, image_size)))
    if not representations.isfinite().all():
        raise TrackingError(
            "encoder: its representations are not finite numbers: its training diverged, and it is not registered; "
            f"{EARLIER}, or train again with lower learning rates"
        )


def _write_files(encoder: FrozenEncoder, description: EncoderDescription, card: str, folder: Path) -> list[Path]:
    for (name, network), view in zip(encoder.encoders.items(), encoder.views, strict=True):
        about = {"view": view, "run": description.run} | ({"input": "uint8 / 127.5 - 1"} if view == "rgb" else {})
        save_file(network.state_dict(), folder / f"{name}.safetensors", metadata=about)
    (folder / DESCRIPTION).write_text(description.model_dump_json(indent=2) + "\n", encoding="utf-8")
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
    """An encoder as a consumer loads it, without running code that came with it.

    Raises:
        TrackingError: there is such code.
        MlflowException: it cannot be loaded.
    """
    # MLflow would import what a model brings along, however it is told to load.
    if any(flavor.get("code") for flavor in Model.load(model).flavors.values()):
        raise TrackingError(f"{model}: brings code of its own, which no encoder by metaug_ray does; nothing was run")
    try:
        with environment_variables(MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false"):
            loaded: torch.nn.Module = mlflow.pytorch.load_model(model)
    except MlflowException as error:
        if "using pickle is disallowed" not in str(error):
            raise
        raise TrackingError(
            f"{model}: is a pickle, or holds one, which no encoder by metaug_ray does; nothing was run"
        ) from error
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


def _images(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, height, width), dtype=np.uint8)
