"""MLflow's registry: encoders by name, their versions, and the aliases that say which one to take."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from metaug_ray.tracking.connection import connect, reason
from metaug_ray.tracking.errors import TrackingError
from metaug_ray.tracking.evaluations import Evaluation, classifier_of, in_words

LATEST: Final = "latest-good"
"""Alias of the last version that was registered whole."""
VERSION: Final = "<version>"
"""Stands for the version's number in its card, until it has one."""
CHAMPION: Final = "champion"
"""Alias of the best version."""
JUDGED: Final = "metaug.judged."
"""Tag, with a classifier's name: hash of the data and settings that a version's metrics are of."""
JUDGED_BY: Final = "metaug.judged_by."
"""Tag, with a classifier's name: names of the data."""
_CHALLENGED: Final = "metaug.challenged"
_PROMOTED_IN: Final = "metaug.reign"


@dataclass(frozen=True)
class Promotion:
    """What became of an attempt to make a version the champion.

    Attributes:
        champion: the champion's version now.
        sentence: why, for people.
        promoted: whether it is the one that was asked for.
    """

    champion: str
    sentence: str
    promoted: bool


def register(name: str, model: str, tags: Mapping[str, str], card: str, *, run_id: str, uri: str) -> str:
    """Make a logged encoder a version of a registered model; it becomes `latest-good`.

    The version appears with all its tags, in one request, once everything it consists of is there.

    Args:
        name: of the registered model; made where it is not there.
        model: `models:/...`, as :func:`~metaug_ray.tracking.export.log_encoder` gives it.
        tags: of the version.
        card: Markdown, its description.
        run_id: of the MLflow run that it comes from.
        uri: of MLflow.

    Returns:
        The version.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    client = connect(uri)
    try:
        with suppress(MlflowException):  # it is there already
            client.create_registered_model(name, description="Frozen encoders by metaug_ray.")
        created = client.create_model_version(
            name,
            model,
            run_id=run_id,
            tags=dict(tags),
            description=_shortened(card, VERSION),
            model_id=model.removeprefix("models:/"),
        )
        version = str(created.version)
    except MlflowException as error:
        raise TrackingError(f"MLflow at {uri} does not register {name!r} ({reason(error)})") from error
    try:
        client.update_model_version(name, version, _shortened(card, version))
        client.set_registered_model_alias(name, LATEST, version)
    except MlflowException as error:
        raise TrackingError(
            f"version {version} of {name!r} is registered, but MLflow at {uri} does not name it {LATEST} "
            f"({reason(error)}); the same command tries again"
        ) from error
    return version


def find_version(name: str, run_id: str, step: int, *, uri: str) -> str | None:
    """The version of a registered model that holds the encoder of a run at a step, if there is one.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    client = connect(uri)
    try:
        versions = client.search_model_versions(f"name = '{name}'")
    except MlflowException as error:
        raise TrackingError(f"MLflow at {uri} does not search {name!r} ({reason(error)})") from error
    for version in versions:
        if (version.run_id, version.tags.get("metaug.step")) == (run_id, str(step)):
            return str(version.version)
    return None


def renew(name: str, version: str, tags: Mapping[str, str], card: str, *, uri: str) -> None:
    """Bring a version's tags and card up to date; the newest version becomes `latest-good`, if it is not.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    client = connect(uri)
    try:
        for tag, value in tags.items():
            client.set_model_version_tag(name, version, tag, value)
        client.update_model_version(name, version, _shortened(card, version))
        # Its registration may have been broken off before it got the alias; an older one shall not take it back.
        if int(version) == max(int(other.version) for other in client.search_model_versions(f"name = '{name}'")):
            client.set_registered_model_alias(name, LATEST, version)
    except MlflowException as error:
        raise TrackingError(f"{name} version {version}: MLflow at {uri} refuses ({reason(error)})") from error


def find_champion(name: str, *, uri: str) -> ModelVersion | None:
    """The version that is the champion now, if there is one.

    Raises:
        TrackingError: MLflow cannot be reached.
    """
    try:
        return _champion(connect(uri), name)
    except MlflowException as error:
        raise TrackingError(f"MLflow at {uri} does not give the {CHAMPION} of {name!r} ({reason(error)})") from error


def renew_judged(champion: ModelVersion, evaluations: Sequence[Evaluation], *, uri: str) -> ModelVersion:
    """Bring the hashes of how a version was judged into this version's form, where an earlier one wrote them.

    Args:
        champion: the version.
        evaluations: of its encoder.
        uri: of MLflow.

    Returns:
        The version with its tags as they are now.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    client = connect(uri)
    try:
        for tag, value in champion.tags.items():
            classifier = tag.removeprefix(JUDGED)
            known = (e for e in evaluations if tag.startswith(JUDGED) and e.tagged.get(classifier) == value)
            found = next(known, None)
            if found is not None and found.judged[classifier] != value:
                client.set_model_version_tag(champion.name, champion.version, tag, found.judged[classifier])
        return client.get_model_version(champion.name, champion.version)
    except MlflowException as error:
        raise TrackingError(f"MLflow at {uri} does not renew the {CHAMPION}'s tags ({reason(error)})") from error


def judged_as(version: ModelVersion | None, metric: str) -> str | None:
    """Hash of the data and settings that a version's metric is of; None where it was not judged, or is none."""
    return None if version is None else version.tags.get(JUDGED + classifier_of(metric))


def check_promotable(champion: ModelVersion | None, tags: Mapping[str, str], metric: str) -> None:
    """Whether an encoder with these tags can be compared with the champion.

    Raises:
        TrackingError: the champion was judged otherwise or lacks the metric.
    """
    if champion is None:
        return
    _metric(champion, metric)
    classifier = classifier_of(metric)
    ours, theirs = tags.get(JUDGED + classifier), judged_as(champion, metric)
    if ours != theirs and not metric.startswith("online_"):
        raise TrackingError(
            f"promote: the {CHAMPION}, version {champion.version} of {champion.name!r}, was judged by "
            f"{champion.tags.get(JUDGED_BY + classifier, 'nothing')} ({theirs}), and this encoder by "
            f"{tags.get(JUDGED_BY + classifier, 'nothing')} ({ours}); evaluate both alike, or use --force"
        )


def promote(name: str, version: str, metric: str, *, uri: str, force: bool = False) -> Promotion:
    """Make a version the champion, if its metric is greater than the present one's.

    Two promotions at once end with the better one as the champion: each marks its version as a challenger in the same
    round before it looks who else did.

    Args:
        name: of the registered model.
        version: of it.
        metric: tag of the versions that holds the number to compare, such as `linear/top1`.
        uri: of MLflow.
        force: make it the champion whatever the metric says.

    Raises:
        TrackingError: no such model, version or metric, the champion was judged otherwise, or MLflow cannot be reached.
    """
    client = connect(uri)
    try:
        candidate = client.get_model_version(name, version)
        if force:
            client.set_model_version_tag(name, version, _PROMOTED_IN, uuid.uuid4().hex[:12])
            client.set_registered_model_alias(name, CHAMPION, version)
            unknown = "" if metric in candidate.tags else f"; it has no {metric} that others could be compared with"
            return Promotion(version, f"version {version} is the {CHAMPION} now, by force{unknown}", True)
        value = _metric(candidate, metric)
        present = _champion(client, name)
        if present is not None and str(present.version) == version:
            return Promotion(version, f"version {version} is the {CHAMPION} already", True)
        check_promotable(present, candidate.tags, metric)
        if present is not None and value <= _metric(present, metric):
            return Promotion(
                str(present.version),
                f"version {version} is not promoted: its {metric} is {in_words(metric, value)}, and that of the "
                f"{CHAMPION}, version {present.version}, is {in_words(metric, _metric(present, metric))}; --force "
                "promotes it all the same",
                False,
            )
        round_ = "none" if present is None else f"{present.version} {present.tags.get(_PROMOTED_IN, '')}"
        client.set_model_version_tag(name, version, _CHALLENGED, round_)
        winner = _settle(client, name, metric, round_, None if present is None else str(present.version))
    except MlflowException as error:
        raise TrackingError(
            f"{name} version {version}: MLflow at {uri} does not promote it ({reason(error)})"
        ) from error
    if winner != version:
        return Promotion(winner, f"version {winner} was promoted at the same time, and is the {CHAMPION} now", False)
    return Promotion(
        version, f"version {version} is the {CHAMPION} now: its {metric} is {in_words(metric, value)}", True
    )


def _settle(client: MlflowClient, name: str, metric: str, round_: str, previous: str | None) -> str:
    """Make the best challenger of a round the champion; returns who it is."""
    while True:
        versions = client.search_model_versions(f"name = '{name}'")
        challengers = [v for v in versions if v.tags.get(_CHALLENGED) == round_ and metric in v.tags]
        best = max(challengers, key=lambda version: (_metric(version, metric), -int(version.version)))
        now = _champion(client, name)
        champion = None if now is None else str(now.version)
        # Until nobody else has been at it in between, or the next round has begun.
        if champion == str(best.version) or champion not in {previous, *(str(other.version) for other in challengers)}:
            return str(champion)
        # The same for whoever promotes it, and never again.
        ours = hashlib.sha256(round_.encode()).hexdigest()[:12]
        try:
            client.set_model_version_tag(name, best.version, _PROMOTED_IN, ours)
        except MlflowException:  # a database may refuse the second of two that write it at the same moment
            if client.get_model_version(name, best.version).tags.get(_PROMOTED_IN) != ours:
                raise
        client.set_registered_model_alias(name, CHAMPION, best.version)


def _shortened(card: str, version: str) -> str:
    """As much as every database takes, without the figures, which lie elsewhere."""
    lines = [line for line in card.replace(VERSION, version).splitlines() if not line.startswith("![")]
    card = "\n".join(lines)
    return card if len(card) <= 4900 else f"{card[:4800]}\n\n(The rest is in extra_files/card.md.)\n"


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        # A model without this alias is an invalid parameter to one store, and not found to another.
        if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            return None
        raise


def _metric(version: ModelVersion, metric: str) -> float:
    try:
        return float(version.tags[metric])
    except (KeyError, ValueError) as error:
        measured = ", ".join(sorted(name for name in version.tags if "/" in name)) or "none"
        raise TrackingError(
            f"promote: version {version.version} of {version.name!r} has no {metric}; it has: {measured}. Evaluate its "
            "encoder and register it again, choose one of these, or use --force"
        ) from error
