"""What is refused before an encoder is judged."""

import logging

from metaug_ray.config.evaluate import EvaluateSettings
from metaug_ray.data.errors import DataError
from metaug_ray.data.manifest import Manifest
from metaug_ray.data.sources.classes import other_classes
from metaug_ray.data.staging import find_manifest
from metaug_ray.evaluation.classifiers import images_of_share
from metaug_ray.evaluation.errors import EvaluationError
from metaug_ray.evaluation.linear_probe import LEAST_IMAGES
from metaug_ray.runtime.words import counted

_log = logging.getLogger(__name__)


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
        if not manifest.labelled:
            raise DataError(f"{beton}: has classes, but none of its images has a label; prepare it with labels")
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
    labelled = train.labelled
    if settings.knn.neighbours > labelled:
        raise EvaluationError(
            f"knn.neighbours: {settings.knn.neighbours}, but {settings.train} has {labelled} images with labels; give "
            "fewer"
        )
    share = max(settings.probe.label_shares)
    count = images_of_share(train.class_counts, share)
    if count < LEAST_IMAGES:
        raise EvaluationError(
            f"probe.label_shares: {share:g} of the labels of {settings.train} are {count} images, and a probe "
            f"needs {LEAST_IMAGES}; give larger shares, or more images"
        )


def distinct_shares(settings: EvaluateSettings, train: Manifest) -> tuple[float, ...]:
    """The shares of the labels without those that are the same images as a larger one: they would be one result twice,
    and without those that are too few images for a probe.

    What a share comes to is told where that is another share.
    """
    labelled, chosen = train.labelled, dict[tuple[int, ...], float]()
    for share in sorted(set(settings.probe.label_shares), reverse=True):
        images = images_of_share(train.class_counts, share)
        if images < LEAST_IMAGES:
            _log.warning(
                "probe.label_shares: %g is left out: it is %s here, and a probe needs %d",
                share,
                counted(images, "image"),
                LEAST_IMAGES,
            )
            continue
        same = chosen.setdefault(tuple(images_of_share([count], share) for count in train.class_counts), share)
        if same != share:
            _log.warning(
                "probe.label_shares: %g is left out: it is the same %s as %g, as each class gives whole images, and at "
                "least one",
                share,
                counted(images, "image"),
                same,
            )
        elif abs(images / labelled - share) > share / 10:
            _log.warning(
                "probe.label_shares: %g of the labels is %d of %s here, %.3g %%, as each class gives whole images, and "
                "at least one",
                share,
                images,
                counted(labelled, "image"),
                100 * images / labelled,
            )
    return tuple(share for share in dict.fromkeys(settings.probe.label_shares) if share in chosen.values())


def _manifest(name: str, beton: str) -> Manifest:
    try:
        return find_manifest(beton)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error
