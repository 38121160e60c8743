"""Where an encoder that is judged or published comes from: a run, a run's beginning, or MLflow's registry."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic import ValidationError
from torch import Tensor, nn

from metaug_ray.config.base import explain
from metaug_ray.config.pretrain import KNN_ACCURACY, RANKME, PretrainSettings
from metaug_ray.config.recorded import read_fixed, read_settings
from metaug_ray.errors import UserError
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.method.encoders import MultiViewEncoder
from metaug_ray.method.frozen import FrozenEncoder
from metaug_ray.method.generators import Generators
from metaug_ray.method.heads import HeadDict
from metaug_ray.runtime.checkpoint import describe, load_part
from metaug_ray.runtime.networks import build_networks
from metaug_ray.runtime.run_folder import RunFolder
from metaug_ray.tracking.description import EncoderDescription
from metaug_ray.tracking.encoders import read_encoder
from metaug_ray.tracking.runs import find_run

_ONLINE: Final[Mapping[str, str]] = {"online_knn/top1": KNN_ACCURACY, "online_rankme/mean": RANKME}
"""Metrics of the run itself, by their names beside those of evaluations."""


@dataclass(frozen=True)
class FoundEncoder:
    """An encoder, what else its run had, and where it is from.

    Attributes:
        encoder: frozen, on the CPU.
        heads: projection heads by encoder; None for a registered encoder.
        generators: None for a registered encoder and for a run without.
        description: of it.
        online: what the run itself measured for this checkpoint: `online_knn/top1`, `online_rankme/mean`, if it did.
    """

    encoder: FrozenEncoder
    heads: HeadDict | None
    generators: Generators | None
    description: EncoderDescription
    online: Mapping[str, float] = field(default_factory=dict)


def find_encoder(reference: str, storage: str, uri: str | None) -> FoundEncoder:
    """The encoder that a reference names.

    Args:
        reference: as `metaug_ray.config.references` allows.
        storage: folder or URI of all runs.
        uri: of MLflow; None to do without it, as only models:/... cannot.

    Raises:
        EvaluationError: there is no such run or checkpoint, or it cannot be read.
        TrackingError: MLflow has no such model.
    """
    if reference.startswith("models:/"):
        if uri is None:
            raise EvaluationError(f"encoder: {reference} lies in MLflow, so it needs a tracking URI")
        encoder, description = read_encoder(reference, uri)
        return FoundEncoder(encoder, None, None, description)
    kind, _, rest = reference.partition(":")
    name, _, which = rest.partition("@")
    try:
        return _from_run(kind, name, which or "last", storage, uri)
    except EvaluationError:
        raise
    except UserError as error:
        raise EvaluationError(f"encoder: {reference} cannot be read ({error})") from error
    except ValidationError as error:
        raise EvaluationError(
            f"encoder: {reference} was recorded by another version of metaug_ray ({explain(error)})"
        ) from error


def _from_run(kind: str, name: str, which: str, storage: str, uri: str | None) -> FoundEncoder:
    folder = RunFolder(storage, name)
    record = folder.record
    if record is None:
        raise EvaluationError(f"encoder: there is no run {name!r} in {folder.storage}; check the name and --storage")
    settings = read_settings(record["settings"])
    if uri is not None:
        # The run may have been sent to several MLflows.
        recorded = record.get("mlflow", {}).get("run_id")
        record["mlflow"] = {"run_id": find_run(uri, record["id"], recorded) or recorded}
    networks, generators = build_networks(settings)
    if kind == "random":
        description = _describe(record, settings, "drawn, before training", 0)
        return FoundEncoder(_frozen(networks, description), networks.heads, generators, description)
    checkpoint = _checkpoint(folder, which)
    modules: dict[str, nn.Module] = {"encoder": networks}
    if generators is not None:
        modules["generators"] = generators
    files = folder.files(checkpoint)
    load_part({name: module.state_dict() for name, module in modules.items()}, files)
    step = int(describe(files)["step"])
    description = _describe(record, settings, f"{folder.location}/{checkpoint}", step)
    measured = folder.metrics(checkpoint.rpartition("/")[2])
    values = {name: measured.get(metric, math.nan) for name, metric in _ONLINE.items()}
    online = {name: value for name, value in values.items() if math.isfinite(value)}
    return FoundEncoder(_frozen(networks, description), networks.heads, generators, description, online)


def _checkpoint(folder: RunFolder, which: str) -> str:
    """Where in the run's folder a checkpoint lies."""
    names, best = folder.checkpoints(), folder.best()
    kept = {} if best is None else {best.name: f"best/{best.name}"}
    if which == "best" and best is not None:
        return kept[best.name]
    known = kept | {name: name for name in names}
    if which == "last" and names:
        return names[-1]
    if which in known:
        return known[which]
    if not known:
        raise EvaluationError(
            f"encoder: run {folder.name!r} has no checkpoint yet; random:{folder.name} is its beginning"
        )
    raise EvaluationError(
        f"encoder: run {folder.name!r} has no checkpoint {which!r}; it has {', '.join(sorted(known))}"
    )


def _frozen(networks: MultiViewEncoder, description: EncoderDescription) -> FrozenEncoder:
    encoder = description.build()
    weights: dict[str, Tensor] = networks.state_dict()
    encoder.load_state_dict({name: value for name, value in weights.items() if name.startswith("encoders.")})
    return encoder


def _describe(record: dict[str, Any], settings: PretrainSettings, checkpoint: str, step: int) -> EncoderDescription:
    return EncoderDescription(
        model=settings.model,
        image_size=settings.data.image_size,
        variant=settings.variant if step else "random init",
        run=settings.name,
        run_id=record.get("mlflow", {}).get("run_id"),
        checkpoint=checkpoint,
        step=step,
        epochs=step / settings.steps_per_epoch(record["data"]["samples"]),
        data_name=str(record["data"]["beton"]).rpartition("/")[2],
        data_sha256=record["data"]["sha256"],
        # A warm start is another run than the same settings from the beginning.
        settings=read_fixed(record["fixed"]) | {"fork": record.get("fork")},
    )
