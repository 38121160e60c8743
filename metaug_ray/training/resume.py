"""Whether a run may go on with given settings."""

from typing import Any, Final

from metaug_ray.config import PretrainSettings
from metaug_ray.training.errors import TrainingError

_MAY_CHANGE: Final = {"fork", "register_as", "compute", "checkpoint", "health", "tracking"}
"""What no result depends on, up to rounding."""


def fixed_settings(settings: PretrainSettings) -> dict[str, Any]:
    """The settings that results depend on. Data counts by its content, not by its place."""
    fixed = settings.model_dump(mode="json", exclude=_MAY_CHANGE)
    del fixed["data"]["beton"]
    return fixed


def check_resumable(recorded: dict[str, Any], settings: PretrainSettings, sha256: str) -> None:
    """Compare a run's record with what it shall go on with.

    Args:
        recorded: the run's record: `fixed` settings and `data` with its `sha256`.
        settings: the new ones.
        sha256: of the beton that they name.

    Raises:
        TrainingError: they differ in what results depend on; the message says where.
    """
    differences = _differences(recorded["fixed"], fixed_settings(settings))
    if recorded["data"]["sha256"] != sha256:
        differences.append(
            f"  data.beton: {recorded['data']['beton']} (SHA-256 {recorded['data']['sha256'][:12]}...) -> "
            f"{settings.data.beton} (SHA-256 {sha256[:12]}...)"
        )
    if differences:
        raise TrainingError(
            f"name: run {settings.name!r} was made with other settings:\n"
            + "\n".join(differences)
            + "\nGo on with the "
            f"old ones, or begin a new run with its weights: --name NEW --fork {settings.name}"
        )


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in _differences(old.get(key, "absent"), new.get(key, "absent"), f"{name}.{key}" if name else key)
        ]
    return [] if old == new else [f"  {name}: {old} -> {new}"]
