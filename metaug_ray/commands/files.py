"""Settings of a run from a preset and from a YAML file, as sources beneath the command line and the environment."""

import logging
from pathlib import Path
from typing import Any

import yaml
from pydantic_settings import InitSettingsSource

from metaug_ray.commands.base import CommandError
from metaug_ray.config.base import absolute
from metaug_ray.config.presets import PRESETS
from metaug_ray.config.recorded import lost, migrated

_log = logging.getLogger(__name__)


class FileSource(InitSettingsSource):
    """The file that `config` names: on the command line or in the environment.

    Raises:
        CommandError: it cannot be read, or holds no settings.
    """

    def __call__(self) -> dict[str, Any]:
        name = self.current_state.get("config")
        if name is None:
            return {}
        path, content = _read(name)
        if change := lost(content):
            _log.warning("%s: %s", path, change)
        return migrated(content)


def named_in_file(name: str, setting: str) -> str:
    """A setting, by its dotted name, with the file before it where that sets it.

    Args:
        name: of the file, as `config` names it.
        setting: that is wrong.

    Raises:
        CommandError: as for :class:`FileSource`.
    """
    path, content = _read(name)
    found: Any = migrated(content)
    for part in setting.split("."):
        if isinstance(found, list):  # its entries are set with it
            break
        if not isinstance(found, dict) or part not in found:
            return setting
        found = found[part]
    return f"{path}: {setting}"


def _read(name: str) -> tuple[Path, dict[str, Any]]:
    path = absolute(Path(name))
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CommandError(f"config: {path} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise CommandError(f"config: {path} holds no settings by name; write one with --print-config")
    return path, content


class PresetSource(InitSettingsSource):
    """The preset that `preset` names: on the command line, in the environment or in the file."""

    def __call__(self) -> dict[str, Any]:
        # Where it is none of them, the settings say so; without data they would say that data is missing, not beton.
        name = self.current_state.get("preset")
        return {"data": {}} | next((values for preset, values in PRESETS.items() if preset == name), {})
