"""An encoder of a run, published: logged, verified, registered, and promoted if it is the best."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities.model_registry import ModelVersion

from metaug_ray.config import RegisterSettings
from metaug_ray.evaluation.card import write_card
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.source import find_encoder
from metaug_ray.tracking.encoders import log_encoder
from metaug_ray.tracking.evaluations import Evaluation, classifier_of, find_evaluations
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
)
from metaug_ray.tracking.runs import connect, download_figures


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


def register_encoder(settings: RegisterSettings, say: Callable[[str], None]) -> Registration:
    """Publish an encoder. Nothing is registered before what was logged has been loaded again and computes the same.

    Raises:
        EvaluationError: there is no such run or checkpoint, or it has no MLflow run.
        TrackingError: MLflow cannot be reached or refuses, or the metric to promote by was not measured.
    """
    uri = settings.tracking.uri
    connect(uri, new=False)
    source = find_encoder(settings.encoder, settings.storage, uri)
    description = source.description
    if description.run_id is None:
        raise EvaluationError(f"encoder: run {description.run!r} has no MLflow run to belong to; start it once more")
    evaluations = find_evaluations(settings.tracking.experiment, uri, run_id=description.run_id, step=description.step)
    champion = None if settings.promote is None else find_champion(settings.name, uri=uri)
    chosen = _choose(evaluations, settings.promote, champion)
    metrics = {
        metric: value
        for found in reversed(evaluations)
        for metric, value in found.metrics.items()
        if found.judged[classifier_of(metric)] == chosen[classifier_of(metric)].judged[classifier_of(metric)]
    }
    if source.knn is not None:
        metrics["online_knn/top1"] = source.knn
    if settings.promote is not None and not settings.force and settings.promote not in metrics:
        raise EvaluationError(
            f"promote: {settings.encoder} has no {settings.promote}; measured are: "
            f"{', '.join(sorted(metrics)) or 'none'}. Evaluate it first with jobs/evaluate_encoder.py"
        )
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
        "metaug.run_id": description.run_id,
        "metaug.checkpoint": description.checkpoint,
    }
    tags |= {JUDGED + classifier: found.judged[classifier] for classifier, found in chosen.items()}
    judged_by = {classifier: found.data for classifier, found in chosen.items()}
    tags |= {JUDGED_BY + classifier: data for classifier, data in judged_by.items()}
    tags |= {name: f"{value:.6g}" for name, value in metrics.items()}
    if settings.promote is not None and not settings.force:
        check_promotable(champion, tags, settings.promote)
    with tempfile.TemporaryDirectory() as scratch:
        figures = download_figures(uri, description.run_id, Path(scratch))
        card = write_card(description, metrics, judged_by, figures, settings.name)
        version = find_version(settings.name, description.run_id, description.step, uri=uri)
        if version is not None:
            renew(settings.name, version, tags, card, uri=uri)
            say(f"{settings.name} version {version} holds this encoder already; its tags are up to date")
        else:
            say(f"exporting {settings.encoder} ({description.variant}, step {description.step:,})")
            model = log_encoder(source.encoder, description, card, figures, run_id=description.run_id, uri=uri)
            version = register(settings.name, model, tags, card, run_id=description.run_id, uri=uri)
            say(f"registered {settings.name} version {version}")
    if settings.promote is None:
        return Registration(settings.name, version, None)
    promotion = promote(settings.name, version, settings.promote, uri=uri, force=settings.force)
    say(promotion.sentence)
    return Registration(settings.name, version, promotion)


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
    for found in evaluations:
        for metric in found.metrics:
            chosen.setdefault(classifier_of(metric), found)
    if promote is not None:
        alike = [
            found
            for found in evaluations
            if promote in found.metrics and found.judged[classifier_of(promote)] == judged_as(champion, promote)
        ]
        chosen |= {classifier_of(promote): found for found in alike[:1]}
    return chosen
