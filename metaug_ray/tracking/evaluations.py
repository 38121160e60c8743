"""Evaluations in MLflow: a run each, found by the encoder that was judged."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlflow.entities import Metric, Run, RunTag
from mlflow.exceptions import MlflowException

from metaug_ray.tracking.connection import (
    connect,
    find_experiment,
    flat,
    known_experiment,
    log_params,
    now,
    patient,
    reason,
)
from metaug_ray.tracking.description import EncoderDescription, hash_settings, read_deciding
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.tracking.protocol import IMAGES, Protocol, hashes, nested, read_protocol

_KIND: Final = "metaug.kind"
_EVALUATION: Final = "evaluation"
_JUDGED: Final = "metaug.judged."
_PROTOCOL: Final = "judged."
_TRAINING: Final = "training."
_LONGEST_NAME: Final = 250
"""Of a run, in characters, that every database of MLflow takes."""


@dataclass(frozen=True)
class Evaluation:
    """What MLflow has of an evaluation.

    Attributes:
        run_id: of the evaluation itself.
        variant: of the method, by the paper's name.
        run: name of the training run.
        seed: of the training run.
        epochs: that it had made.
        networks: in words.
        data: names of the betons that were learnt from and judged by.
        judged: hash of the protocol, for the `IMAGES` and by classifier; only metrics that share it can be compared.
        tagged: the same, as the version of this package computed it that wrote the evaluation.
        config: hash of the training's settings and data, without seed.
        metrics: by name.
        protocol: what `judged` stands for, flat.
        training: what `config` stands for, flat.
    """

    run_id: str
    variant: str
    run: str
    seed: int
    epochs: float
    networks: str
    data: str
    judged: Mapping[str, str]
    tagged: Mapping[str, str]
    config: str
    metrics: dict[str, float]
    protocol: Mapping[str, str]
    training: Mapping[str, str]


def classifier_of(metric: str) -> str:
    """`linear_10pct/ab/top1` is of `linear`."""
    return re.sub(r"_[\d.e-]+pct$", "", metric.partition("/")[0])


def is_accuracy(metric: str) -> bool:
    """Whether a metric is a share; the only other kind is an effective rank."""
    return classifier_of(metric) != "online_rankme"


def in_words(metric: str, value: float) -> str:
    """A metric's value for people."""
    return f"{value:.2%}" if is_accuracy(metric) else f"{value:.2f}"


def log_evaluation(
    description: EncoderDescription,
    encoder: str,
    data: str,
    protocol: Protocol,
    settings: Mapping[str, Any],
    metrics: Mapping[str, float],
    files: Sequence[Path],
    *,
    experiment: str,
    uri: str,
) -> str:
    """Write an evaluation as an MLflow run of its own; returns the run's id.

    Args:
        description: of the encoder.
        encoder: as the user named it.
        data: what it was judged by, such as `train.beton -> test.beton`.
        protocol: contents of the data and how they were used.
        settings: of the evaluation, nested.
        metrics: by name.
        files: artifacts.
        experiment: of MLflow.
        uri: of MLflow.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    client = connect(uri)
    tags = {
        _KIND: _EVALUATION,
        "metaug.encoder": encoder,
        "metaug.data": data,
        "metaug.networks": description.networks,
        "metaug.variant": description.variant,
        "metaug.training_run": description.run,
        "metaug.training_run_id": description.run_id or "",
        "metaug.step": str(description.step),
        "metaug.epochs": f"{description.epochs:g}",
        "metaug.seed": str(description.seed),
        "metaug.config": description.config_hash,
        "metaug.checkpoint": description.checkpoint,
    } | {_JUDGED + name: value for name, value in hashes(protocol).items()}
    params = flat(dict(settings)) | flat(dict(protocol), _PROTOCOL) | flat(description.deciding, _TRAINING)
    try:
        name = f"{encoder} on {data}"[:_LONGEST_NAME]
        run = client.create_run(find_experiment(client, uri, experiment), run_name=name, tags=tags)
        run_id = str(run.info.run_id)
        try:
            client.log_batch(
                run_id, metrics=[Metric(name, value, now(), description.step) for name, value in metrics.items()]
            )
            log_params(client, run_id, params)
            with patient():
                for file in files:
                    client.log_artifact(run_id, str(file))
        except BaseException:
            # A half-written one must not be found by those who compare.
            client.log_batch(run_id, tags=[RunTag(_KIND, "unfinished evaluation")])
            client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, "FINISHED")
    except TrackingError:
        raise
    except Exception as error:  # artifact stores raise errors of their own
        raise TrackingError(f"tracking: MLflow at {uri} does not take the evaluation ({reason(error)})") from error
    return run_id


def add_files(run_id: str, files: Sequence[Path], uri: str) -> None:
    """Add artifacts, such as figures, to an evaluation that is logged.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    client = connect(uri)
    try:
        with patient():
            for file in files:
                client.log_artifact(run_id, str(file))
    except Exception as error:  # artifact stores raise errors of their own
        raise TrackingError(f"tracking: MLflow at {uri} does not take the figures ({reason(error)})") from error


def find_evaluations(
    experiment: str, uri: str, *, run_id: str | None = None, step: int | None = None
) -> list[Evaluation]:
    """Finished evaluations, the newest first.

    Args:
        experiment: of MLflow.
        uri: of MLflow.
        run_id: of the training run whose encoder was judged; None for all.
        step: of its checkpoint; None for all.

    Raises:
        TrackingError: MLflow cannot be reached, or the experiment was deleted.
    """
    client = connect(uri)
    # The last leaves out those that earlier versions of this package wrote.
    query = f"tags.`{_KIND}` = '{_EVALUATION}' and attributes.status = 'FINISHED' and tags.`{_JUDGED}{IMAGES}` != ''"
    if run_id is not None:
        query += f" and tags.`metaug.training_run_id` = '{run_id}'"
    if step is not None:
        query += f" and tags.`metaug.step` = '{step}'"
    found: list[Run] = []
    token = None
    try:
        known = known_experiment(client, uri, experiment)
        while known is not None:
            page = client.search_runs([known.experiment_id], query, page_token=token, order_by=["start_time DESC"])
            found.extend(page)
            token = page.token
            if not token:
                break
    except MlflowException as error:
        raise TrackingError(f"tracking: MLflow at {uri} does not search ({reason(error)})") from error
    return [_read(run) for run in found]


def _read(run: Run) -> Evaluation:
    tags, params = run.data.tags, run.data.params
    # Hashes of other versions are of other settings: all are computed anew.
    protocol = read_protocol(_under(_PROTOCOL, params))
    training = read_deciding(nested(_under(_TRAINING, params)))
    return Evaluation(
        str(run.info.run_id),
        tags["metaug.variant"],
        tags["metaug.training_run"],
        int(tags["metaug.seed"]),
        float(tags["metaug.epochs"]),
        tags["metaug.networks"],
        tags["metaug.data"],
        hashes(protocol),
        _under(_JUDGED, tags),
        hash_settings(training),
        dict(run.data.metrics),
        flat(dict(protocol)),
        flat(training),
    )


def _under(prefix: str, values: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
