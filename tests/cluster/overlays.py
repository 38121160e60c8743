"""The overlays of `cluster/kuberay`, and what their jobs run."""

import re
import runpy
import shlex
import sys
from collections.abc import Callable
from typing import Any

import pytest

from metaug_ray.commands import base
from tests.cluster.documents import IN_IMAGE, KUBERAY, ROOT, Document, build, documents


def built(overlay: str) -> list[Document]:
    return documents(build(KUBERAY / "overlays" / overlay))


def applied(overlay: str) -> list[Document]:
    """With what a job needs of the cluster that stays."""
    name, _, job = overlay.partition("/")
    return built(name) + (built(overlay) if job else [])


def settings(overlay: str) -> dict[str, str]:
    found = [document for document in applied(overlay) if document["kind"] == "ConfigMap"]
    return dict(found[0]["data"])


def cluster_specs(found: list[Document]) -> list[Any]:
    """Of Ray's clusters, those of jobs among them."""
    return [d["spec"].get("rayClusterSpec", d["spec"]) for d in found if d["kind"] in ("RayCluster", "RayJob")]


def commands_of(entrypoint: str) -> list[list[str]]:
    """Commands of a shell's line, those that its bash would run in its place."""
    words = shlex.split(entrypoint)
    if words[:2] == ["bash", "-c"]:
        return [shlex.split(part) for part in re.split(r"\|\||&&", words[2]) if not part.strip().startswith("test ")]
    return [words]


def read_settings(command: list[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Reads a job's settings from its command line, and does nothing with them. Returns 0 where they are good."""

    def parse(program: str, parsed: Callable[[], Any], run: Any, interrupted: str) -> int:
        parsed()
        return 0

    here = [word.replace(str(IN_IMAGE), str(ROOT)) for word in command]
    assert here[0] == "python"
    monkeypatch.setattr(base, "run_command", parse)
    monkeypatch.setattr(sys, "argv", here[1:])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(here[1], run_name="__main__")
    return ended.value.code
