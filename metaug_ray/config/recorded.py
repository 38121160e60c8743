"""Settings on record: which of them a run's results depend on, and how those that earlier versions wrote are read.

Records are read through the settings themselves. So a new setting with a default, or one that was moved, is no
difference between a run that is on record and the same run now.
"""

import copy
from collections.abc import Mapping
from typing import Any, Final

import yaml

from metaug_ray.addresses import without_secret
from metaug_ray.choices import OrderKind
from metaug_ray.config.contrasts import CONTRASTS
from metaug_ray.config.pretrain import PretrainSettings

RENAMED: Final[dict[str, tuple[str, ...]]] = {
    # 0.2.0
    "checkpoint.storage": ("storage",),
    "health.knn_every": ("health.knn.every",),
    "health.knn_beton": ("health.knn.beton",),
    "health.knn_references": ("health.knn.references",),
    "health.knn_queries": ("health.knn.queries",),
    "health.knn_neighbours": ("health.knn.neighbours",),
    "health.knn_temperature": ("health.knn.temperature",),
    "method.beta": ("method.unified.beta", "method.unified_eq8.beta", "method.unified_attenuated.beta"),
    "method.gamma": ("method.unified.gamma", "method.unified_attenuated.gamma"),
    "method.centered": ("method.unified.centered", "method.unified_eq8.centered", "method.unified_attenuated.centered"),
    "method.eq8_margin": ("method.unified_eq8.margin",),
    "method.phi": ("method.unified_attenuated.phi",),
    "method.temperature": (
        "method.info_nce.temperature",
        "method.debiased_info_nce.temperature",
        "method.hard_info_nce.temperature",
        "method.nce.temperature",
    ),
    "method.class_prior": ("method.debiased_info_nce.class_prior", "method.hard_info_nce.class_prior"),
    "method.concentration": ("method.hard_info_nce.concentration",),
    "method.meta.mode": (),
}
"""Settings of pre-training by the names that earlier versions had for them: all that took their place, if anything."""

_EARLIER_ORDER: Final[OrderKind] = "sort"
"""`data.order` of records that lack it."""

MAY_CHANGE: Final = {"fork", "register_as", "compute", "checkpoint", "health", "tracking", "storage"}
"""What no result depends on, up to rounding."""


def migrated(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings of pre-training that any version wrote, in the names of this one."""
    settings: dict[str, Any] = copy.deepcopy(dict(recorded))
    for old, new in RENAMED.items():
        *parts, name = old.split(".")
        holder = _part(settings, parts, make=False)
        if holder is None or name not in holder:
            continue
        value = holder.pop(name)
        for path in new:
            *parts, name = path.split(".")
            target = _part(settings, parts, make=True)
            if target is not None:
                target.setdefault(name, value)
    return settings


def lost(recorded: Mapping[str, Any]) -> str | None:
    """What a record says that this version cannot do in the same way, in words; None where there is nothing."""
    meta = _part(dict(recorded), ["method", "meta"], make=False) or {}
    mode = meta.get("mode", "jvp")
    if mode == "jvp":
        return None
    return f"method.meta.mode {mode} was given up in 0.2.0: the meta gradient is the exact one (jvp) from here on"


def read_settings(recorded: Mapping[str, Any]) -> PretrainSettings:
    """The settings of a run, from a record of this version or an earlier one.

    Raises:
        pydantic.ValidationError: another version's record, which this one cannot read.
    """
    settings = migrated(without_secrets(recorded))
    settings["data"] = {"order": _EARLIER_ORDER} | settings.get("data", {})
    return PretrainSettings.model_validate(settings)


def ordered_as_recorded(settings: PretrainSettings, recorded: Mapping[str, Any]) -> PretrainSettings:
    """The settings of a run that goes on: its images come in the order that it began with, if nobody says another.

    Args:
        settings: that it shall go on with.
        recorded: what `fixed_settings` of any version gave at its beginning.
    """
    return settings.ordered_by(recorded["data"].get("order", _EARLIER_ORDER))


def fixed_settings(settings: PretrainSettings) -> dict[str, Any]:
    """The settings that results depend on. Data counts by its content, not by its place, and of the contrasts and
    targets those that are trained with."""
    fixed = settings.model_dump(mode="json", exclude=MAY_CHANGE)
    del fixed["data"]["beton"]
    for targets, group in {"bank": "bank", "neighbours": "support"}.items():
        if settings.method.targets != targets:
            del fixed[group]
    for contrast in set(CONTRASTS) - {settings.method.contrast}:
        del fixed["method"][contrast]
    return fixed


def read_fixed(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`fixed_settings` gives, from what this version or an earlier one made of the same settings.

    Raises:
        pydantic.ValidationError: another version's record, which this one cannot read.
    """
    # Required, and of no account.
    somewhere = {"beton": "unknown"}
    known = {name: value for name, value in recorded.items() if name not in MAY_CHANGE}
    return fixed_settings(read_settings(known | {"data": somewhere | known.get("data", {})}))


def to_yaml(settings: PretrainSettings) -> str:
    """All settings, as a file that `--config` takes."""
    text: str = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False)
    return text


def without_secrets(recorded: Any) -> Any:
    """A copy of nested settings, in which addresses have no passwords: earlier versions kept them."""
    if isinstance(recorded, Mapping):
        return {name: without_secrets(value) for name, value in recorded.items()}
    if isinstance(recorded, list):
        return [without_secrets(value) for value in recorded]
    return without_secret(recorded) if isinstance(recorded, str) else recorded


def _part(settings: dict[str, Any], parts: list[str], *, make: bool) -> dict[str, Any] | None:
    """The dictionary at a path of names; None where there is none."""
    for part in parts:
        inner = settings.setdefault(part, {}) if make else settings.get(part)
        if not isinstance(inner, dict):
            return None
        settings = inner
    return settings
