"""Settings of a run from a preset and from a YAML file, as sources beneath the command line and the environment."""

import logging
import os
import re
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import yaml
from pydantic_settings import InitSettingsSource

from metaug_ray.commands.base import CommandError
from metaug_ray.config.base import absolute
from metaug_ray.config.presets import PRESETS, with_targets
from metaug_ray.config.recorded import lost, migrated

_log = logging.getLogger(__name__)


class FileSource(InitSettingsSource):
    """The file that `config` names: on the command line or in the environment.

    Raises:
        CommandError: it cannot be read, or holds no settings.
    """

    option: ClassVar[str] = "config"

    def __call__(self) -> dict[str, Any]:
        name = self.current_state.get(self.option)
        if name is None:
            return {}
        path, content = _read(name, self.option)
        if change := lost(content):
            _log.warning("%s: %s", path, change)
        return migrated(content)


class SweepSource(FileSource):
    """The file that `sweep` names, which is stronger than that of `config`."""

    option = "sweep"


def named_in_file(arguments: list[str], options: Sequence[str], setting: str) -> str:
    """A setting, by its dotted name, with the file before it that sets it, if one does.

    Args:
        arguments: of the command, which may name files.
        options: by which they do, the strongest first.
        setting: that is wrong.

    Raises:
        CommandError: as for :class:`FileSource`.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    for option in options:
        parser.add_argument(f"--{option}", default=os.environ.get(f"METAUG_{option.upper()}"))
    files = vars(parser.parse_known_args(arguments)[0])
    for option in options:
        if files[option] is not None:
            path, content = _read(files[option], option)
            if _sets(migrated(content), setting):
                return f"{path}: {setting}"
    return setting


def _sets(found: Any, setting: str) -> bool:
    for part in setting.split("."):
        if isinstance(found, list):  # its entries are set with it
            break
        if not isinstance(found, dict) or part not in found:
            return False
        found = found[part]
    return True


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Refuses a name that stands twice in one place, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        merged = "tag:yaml.org,2002:merge"
        names = [self.construct_object(key, deep=True) for key, _ in node.value if key.tag != merged]
        twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} stands there twice", node.start_mark)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


# YAML 1.1 takes 1e-3 for text, and 1.0e-3 alone for a number.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d[\d_]*[eE][-+]?\d+$"), list("-+0123456789")
)


def _read(name: str, option: str) -> tuple[Path, dict[str, Any]]:
    path = absolute(Path(name))
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise CommandError(f"{option}: {path} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise CommandError(f"{option}: {path} holds no settings by name; write one with --print-config")
    return path, content


class PresetSource(InitSettingsSource):
    """The preset that `preset` names: on the command line, in the environment or in the file."""

    def __call__(self) -> dict[str, Any]:
        # Where it is none of them, the settings say so; without data they would say that data is missing, not beton.
        name, method = self.current_state.get("preset"), self.current_state.get("method")
        targets = method.get("targets") if isinstance(method, dict) else None
        return {"data": {}} | next((with_targets(each, targets) for each in PRESETS if each == name), {})
