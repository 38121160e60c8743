"""What is refused before an encoder is judged."""

from metaug_ray.config.evaluate import EvaluateSettings
from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import Manifest
from metaug_ray.data.sources.classes import other_classes
from metaug_ray.data.staging import find_manifest
from metaug_ray.evaluation.classifiers import images_of_share
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.linear_probe import LEAST_IMAGES


def read_manifests(settings: EvaluateSettings) -> tuple[Manifest, Manifest]:
    """The manifests of the betons to learn from and to be judged by.

    Raises:
        DataError: one is missing, or has no labels.
        EvaluationError: the two hold the same images, or other classes.
    """
    train, test = (_manifest(name, beton) for name, beton in (("train", settings.train), ("test", settings.test)))
    for beton, manifest in ((settings.train, train), (settings.test, test)):
        if not manifest.classes:
            raise DataError(f"{beton}: has no labels, so nothing can be judged by it; prepare it with labels")
    if train.sha256 == test.sha256:
        raise EvaluationError(f"test: {settings.test} holds the same images as {settings.train}; give others")
    if train.classes != test.classes:
        raise EvaluationError("test: " + other_classes(test.classes, settings.test, train.classes, settings.train))
    return train, test


def check_counts(settings: EvaluateSettings, train: Manifest) -> None:
    """Whether there are enough labelled images to learn from.

    Raises:
        EvaluationError: there are not.
    """
    labelled = sum(train.class_counts)
    if settings.knn.neighbours > labelled:
        raise EvaluationError(
            f"knn.neighbours: {settings.knn.neighbours}, but {settings.train} has {labelled} images with labels; give "
            "fewer"
        )
    for share in settings.probe.label_shares:
        count = images_of_share(train.class_counts, share)
        if count < LEAST_IMAGES:
            raise EvaluationError(
                f"probe.label_shares: {share:g} of the labels of {settings.train} are {count} images, and a probe "
                f"needs {LEAST_IMAGES}; give larger shares, or more images"
            )


def _manifest(name: str, beton: str) -> Manifest:
    try:
        return find_manifest(beton)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
