"""Whether a run can be judged while it trains as its settings ask, from the betons' manifests alone."""

from metaug_ray.config.pretrain import PretrainSettings
from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import Manifest
from metaug_ray.data.sources.classes import other_classes
from metaug_ray.data.staging import find_manifest
from metaug_ray.training.errors import TrainingError


def check_evaluation(settings: PretrainSettings, manifest: Manifest) -> None:
    """Refuse betons that cannot judge, and a best checkpoint by what nothing measures.

    Args:
        settings: of the run.
        manifest: of the training beton.

    Raises:
        DataError: a beton is missing or broken.
        TrainingError: one has no labels or other classes, would judge itself, or labels are asked for that nobody has.
    """
    knn = settings.health.knn
    if not knn.every:
        return
    voting, voters = settings.data.beton, manifest
    if knn.references_beton is not None:
        voting, voters = knn.references_beton, _labelled("references_beton", knn.references_beton)
    if knn.beton is not None:
        _check_queries(knn.beton, voting, voters)
    _check_knows_labels("references_beton", voting, voters)
    if settings.health.best_by == "knn" and not voters.labelled:
        raise TrainingError(
            f"health.best_by: knn, but {voting} has no labels that could vote; give a labelled beton as "
            "health.knn.references_beton, or set health.best_by rankme, which needs none"
        )


def _check_queries(queries: str, voting: str, voters: Manifest) -> None:
    if not voters.labelled:
        raise TrainingError(
            f"health.knn.beton: {voting} has no labels that could vote; give a labelled beton as "
            "health.knn.references_beton, or leave health.knn.beton out"
        )
    asked = _labelled("beton", queries)
    _check_knows_labels("beton", queries, asked)
    if asked.classes != voters.classes:
        raise TrainingError("health.knn.beton: " + other_classes(asked.classes, queries, voters.classes, voting))
    if asked.sha256 == voters.sha256:
        raise TrainingError(
            f"health.knn.beton: {queries} holds the images of {voting}, so each would find itself; give "
            "others, or none (health.knn.beton none): some of the images are then kept from the vote"
        )


def _check_knows_labels(setting: str, beton: str, manifest: Manifest) -> None:
    if manifest.shards and 0 < manifest.labelled < manifest.samples:
        raise TrainingError(
            f"{beton}: {manifest.labelled:,} of its {manifest.samples:,} images have labels, and of many shards no "
            f"worker knows which; give a labelled beton as health.knn.{setting}, or set health.knn.every to 0"
        )


def _labelled(setting: str, beton: str) -> Manifest:
    try:
        manifest = find_manifest(beton)
    except DataError as error:
        raise DataError(f"health.knn.{setting}: {error}") from error
    if not manifest.labelled:
        raise TrainingError(
            f"health.knn.{setting}: {beton} has no labels; give a beton that was prepared with labels, or leave "
            f"health.knn.{setting} out"
        )
    return manifest
