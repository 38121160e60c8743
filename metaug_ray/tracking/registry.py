"""MLflow's registry: encoders by name, their versions, and the aliases that say which one to take."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from metaug_ray.tracking.runs import TrackingError, connect, reason

LATEST: Final = "latest-good"
"""Alias of the last version that was registered whole."""
CHAMPION: Final = "champion"
"""Alias of the best version."""
_CHALLENGED: Final = "metaug.challenged"


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
        model: `models:/...`, as :func:`~metaug_ray.tracking.encoders.log_encoder` gives it.
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
        if not client.search_registered_models(f"name = '{name}'", max_results=1):
            client.create_registered_model(name, description="Frozen encoders by metaug_ray.")
        version = client.create_model_version(
            name, model, run_id=run_id, tags=dict(tags), description=card, model_id=model.removeprefix("models:/")
        )
        client.set_registered_model_alias(name, LATEST, version.version)
    except MlflowException as error:
        raise TrackingError(f"register_as: MLflow at {uri} does not register {name!r} ({reason(error)})") from error
    return str(version.version)


def promote(name: str, version: str, metric: str, *, uri: str, force: bool = False) -> Promotion:
    """Make a version the champion, if its metric is greater than the present one's.

    Two promotions at once end with the better one as the champion: each marks its version as a challenger of the same
    champion before it looks who else did.

    Args:
        name: of the registered model.
        version: of it.
        metric: tag of the versions that holds the number to compare, such as `linear/top1`.
        uri: of MLflow.
        force: make it the champion whatever the metric says.

    Raises:
        TrackingError: no such model, version or metric, or MLflow cannot be reached.
    """
    client = connect(uri)
    try:
        candidate = client.get_model_version(name, version)
        if force:
            client.set_registered_model_alias(name, CHAMPION, version)
            return Promotion(version, f"version {version} is the {CHAMPION} now, by force", True)
        value = _metric(candidate, metric)
        present = _champion(client, name)
        if present is not None and str(present.version) == version:
            return Promotion(version, f"version {version} is the {CHAMPION} already", True)
        if present is not None and value <= _metric(present, metric):
            return Promotion(
                str(present.version),
                f"version {version} is not promoted: its {metric} is {value:.4g}, and that of the {CHAMPION}, version "
                f"{present.version}, is {_metric(present, metric):.4g}; --force promotes it all the same",
                False,
            )
        challenged = "none" if present is None else str(present.version)
        client.set_model_version_tag(name, version, _CHALLENGED, challenged)
        winner = _best_challenger(client, name, metric, challenged)
        # Again until nobody else has been at it in between.
        while (now := _champion(client, name)) is None or str(now.version) != winner:
            client.set_registered_model_alias(name, CHAMPION, winner)
            winner = _best_challenger(client, name, metric, challenged)
    except MlflowException as error:
        raise TrackingError(
            f"{name} version {version}: MLflow at {uri} does not promote it ({reason(error)})"
        ) from error
    if winner != version:
        return Promotion(winner, f"version {winner} was promoted at the same time, and has the greater {metric}", False)
    return Promotion(version, f"version {version} is the {CHAMPION} now: its {metric} is {value:.4g}", True)


def _champion(client: MlflowClient, name: str) -> ModelVersion | None:
    try:
        return client.get_model_version_by_alias(name, CHAMPION)
    except MlflowException as error:
        # A model without this alias is an invalid parameter to one store, and not found to another.
        if error.error_code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST"):
            return None
        raise


def _best_challenger(client: MlflowClient, name: str, metric: str, challenged: str) -> str:
    versions = client.search_model_versions(f"name = '{name}'")
    rivals = [version for version in versions if version.tags.get(_CHALLENGED) == challenged and metric in version.tags]
    best = max(rivals, key=lambda version: (_metric(version, metric), -int(version.version)))
    return str(best.version)


def _metric(version: ModelVersion, metric: str) -> float:
    try:
        return float(version.tags[metric])
    except (KeyError, ValueError) as error:
        measured = ", ".join(sorted(name for name in version.tags if "/" in name)) or "none"
        raise TrackingError(
            f"promote: version {version.version} of {version.name!r} has no {metric}; it has: {measured}. Evaluate its "
            "encoder first, choose one of these, or use --force"
        ) from error
