"""An encoder of a run, published: logged, verified, registered, and promoted if it is the best."""

import dataclasses
import logging
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from metaug_ray.config.register import RegisterSettings
from metaug_ray.evaluation.card import write_card
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.find_encoder import FoundEncoder, find_encoder
from metaug_ray.runtime.run_folder import RunFolder
from metaug_ray.runtime.tracked import open_tracker
from metaug_ray.tracking.connection import check_tracking
from metaug_ray.tracking.description import EncoderDescription
from metaug_ray.tracking.evaluations import Evaluation, classifier_of, find_evaluations
from metaug_ray.tracking.export import check_computes, log_encoder
from metaug_ray.tracking.registry import (
    JUDGED,
    JUDGED_BY,
    Promotion,
    check_promotable,
    find_champion,
    find_version,
    judged_as,
    promote,
    register,
    renew,
    renew_judged,
)
from metaug_ray.tracking.runs import download_figures, find_run

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Registration:
    """A registered version.

    Attributes:
        name, version: of the registered model.
        promotion: what became of the wish to promote it; None without one.
    """

    name: str
    version: str
    promotion: Promotion | None


def register_encoder(settings: RegisterSettings, lineage: Mapping[str, str] | None = None) -> Registration:
    """Publish an encoder. Nothing is registered before what was logged has been loaded again and computes the same.

    Args:
        settings: which, and as what.
        lineage: tags of the version that say where its run comes from.

    Raises:
        EvaluationError: there is no such run or checkpoint, or MLflow does not know the run and cannot be sent it.
        TrackingError: MLflow cannot be reached or refuses, or the metric to promote by was not measured.
    """
    uri = settings.tracking.uri
    check_tracking(uri, settings.tracking.experiment, new=False, registry=True)
    found = find_encoder(settings.encoder, settings.storage, uri)
    check_computes(found.encoder, found.description.image_size)
    run_id = _run_in_mlflow(settings, found.description)
    if run_id != found.description.run_id:
        description = found.description.model_copy(update={"run_id": run_id})
        found = dataclasses.replace(found, description=description)
    # What was judged before the run was sent to this MLflow has the id that its record names.
    recorded = (RunFolder(settings.storage, found.description.run).record or {}).get("mlflow", {}).get("run_id")
    evaluations = [
        evaluation
        for known in dict.fromkeys(filter(None, (run_id, recorded)))
        for evaluation in _evaluations(settings, known, found.description.step)
    ]
    champion = _champion(settings)
    chosen = _choose(evaluations, settings.promote, champion)
    metrics = _metrics(evaluations, chosen) | dict(found.online)
    tags = _tags(found.description, run_id, chosen, metrics) | dict(lineage or {})
    if settings.promote is not None and not settings.force:
        _check_measured(settings, metrics)
        check_promotable(champion, tags, settings.promote)
    version = _publish(settings, found, run_id, chosen, metrics, tags)
    if settings.promote is None:
        return Registration(settings.name, version, None)
    promotion = promote(settings.name, version, settings.promote, uri=uri, force=settings.force)
    _log.info(promotion.sentence)
    return Registration(settings.name, version, promotion)


def _run_in_mlflow(settings: RegisterSettings, description: EncoderDescription) -> str:
    """The encoder's training run in this MLflow. A finished one that it does not know is sent there, from its journal.

    Raises:
        EvaluationError: the run is not known there, and cannot be sent.
    """
    tracking, folder = settings.tracking, RunFolder(settings.storage, description.run)
    record = folder.record or {}
    known = find_run(tracking.uri, record["id"], description.run_id)
    if known is not None:
        return known
    missing = f"encoder: MLflow at {tracking.uri} does not know run {description.run!r}"
    if "finished" not in record or not folder.local:
        raise EvaluationError(f"{missing}; its training command with --tracking.uri {tracking.uri} sends it there")
    lock = folder.lock()
    try:
        _log.info("%s; what was recorded of it is sent there", missing.removeprefix("encoder: "))
        tracker = open_tracker(tracking, folder, record["id"])
        if unsent := tracker.close("FINISHED"):
            raise EvaluationError(f"{missing}, and has not taken {unsent} records of it; the same command tries again")
        return tracker.run_id
    finally:
        if lock is not None:
            lock.release()


def _evaluations(settings: RegisterSettings, run_id: str, step: int) -> list[Evaluation]:
    return find_evaluations(settings.tracking.experiment, settings.tracking.uri, run_id=run_id, step=step)


def _champion(settings: RegisterSettings) -> ModelVersion | None:
    """The present champion, if there is one to be compared with."""
    uri = settings.tracking.uri
    compared = settings.promote is not None and not settings.force
    champion = find_champion(settings.name, uri=uri) if compared else None
    if champion is None:
        return None
    run_id, step = champion.tags.get("metaug.run_id", ""), champion.tags.get("metaug.step", "0")
    return renew_judged(champion, _evaluations(settings, run_id, int(step)), uri=uri)


def _choose(
    evaluations: Sequence[Evaluation], promote: str | None, champion: ModelVersion | None
) -> dict[str, Evaluation]:
    """By which evaluation each classifier's accuracies are told, and those of others that judged alike.

    Args:
        evaluations: the newest first, which is chosen,
        promote: but for the classifier of this metric,
        champion: one that was judged as it was, if there is such.
    """
    chosen: dict[str, Evaluation] = {}
    for evaluation in evaluations:
        for metric in evaluation.metrics:
            chosen.setdefault(classifier_of(metric), evaluation)
    if promote is not None:
        classifier = classifier_of(promote)
        alike = [
            evaluation
            for evaluation in evaluations
            if promote in evaluation.metrics and evaluation.judged[classifier] == judged_as(champion, promote)
        ]
        if alike:
            chosen[classifier] = alike[0]
    return chosen


def _metrics(evaluations: Sequence[Evaluation], chosen: Mapping[str, Evaluation]) -> dict[str, float]:
    """What was measured as the chosen evaluations judged; of one metric the newest value."""
    return {
        metric: value
        for evaluation in reversed(evaluations)
        for metric, value in evaluation.metrics.items()
        if evaluation.judged[classifier_of(metric)] == chosen[classifier_of(metric)].judged[classifier_of(metric)]
    }


def _check_measured(settings: RegisterSettings, metrics: Mapping[str, float]) -> None:
    if settings.promote is None or settings.promote in metrics:
        return
    measured = sorted(name for name in metrics if not name.endswith("_interval"))
    close = get_close_matches(settings.promote, measured, 1, 0.8)
    advice = f"; did you mean {close[0]}?" if close else "; choose one of these" if measured else ""
    raise EvaluationError(
        f"promote: {settings.encoder} has no {settings.promote}; measured are: {', '.join(measured) or 'none'}{advice}"
        f"{' Or measure it' if close else ', or measure it' if measured else '. Measure it'} with "
        "jobs/evaluate_encoder.py"
    )


def _tags(
    description: EncoderDescription, run_id: str, chosen: Mapping[str, Evaluation], metrics: Mapping[str, float]
) -> dict[str, str]:
    tags = {
        "metaug.variant": description.variant,
        "metaug.data": description.data_name,
        "metaug.data_sha256": description.data_sha256,
        "metaug.views": ",".join(description.model.views),
        "metaug.encoder": description.model.encoder,
        "metaug.epochs": f"{description.epochs:g}",
        "metaug.step": str(description.step),
        "metaug.seed": str(description.seed),
        "metaug.config": description.config_hash,
        "metaug.run": description.run,
        "metaug.run_id": run_id,
        "metaug.checkpoint": description.checkpoint,
    }
    for classifier, evaluation in chosen.items():
        tags |= {JUDGED + classifier: evaluation.judged[classifier], JUDGED_BY + classifier: evaluation.data}
    return tags | {name: f"{value:.6g}" for name, value in metrics.items()}


def _publish(
    settings: RegisterSettings,
    found: FoundEncoder,
    run_id: str,
    chosen: Mapping[str, Evaluation],
    metrics: Mapping[str, float],
    tags: Mapping[str, str],
) -> str:
    """Register the encoder, or bring the version up to date that holds it already; returns the version."""
    uri, description = settings.tracking.uri, found.description
    judged_by = {classifier: evaluation.data for classifier, evaluation in chosen.items()}
    with tempfile.TemporaryDirectory() as scratch:
        figures = download_figures(uri, run_id, Path(scratch))
        card = write_card(description, metrics, judged_by, figures, settings.name)
        version = find_version(settings.name, run_id, description.step, uri=uri)
        if version is not None:
            renew(settings.name, version, tags, card, uri=uri)
            _log.info("%s version %s holds this encoder already; its tags are up to date", settings.name, version)
            return version
        _log.info(f"exporting {settings.encoder} ({description.variant}, step {description.step:,})")
        model = log_encoder(found.encoder, description, card, figures, run_id=run_id, uri=uri)
        version = register(settings.name, model, tags, card, run_id=run_id, uri=uri)
        _log.info("registered %s version %s", settings.name, version)
        return version
