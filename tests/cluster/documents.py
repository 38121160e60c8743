"""The manifests of `cluster/` and `docker/`: as written, as kustomize builds them, and the pods that stand in them."""

import shutil
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

ROOT: Final = Path(__file__).resolve().parents[2]
KUBERAY: Final = ROOT / "cluster" / "kuberay"
OVERLAYS: Final = ("gpu", "gpu/train", "gpu/sweep", "cpu-test", "cpu-test/train")
IN_IMAGE: Final = Path("/opt/metaug_ray")

Document = dict[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod's spec, wherever in a document it stands.

    Attributes:
        place: kind, name and path of it, for people.
        labels: of its template.
        spec: with its containers.
    """

    place: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]

    def containers(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        for container in (*self.spec.get("initContainers", ()), *self.spec["containers"]):
            yield f"{self.place}, container {container['name']}", container


def pods(document: Document) -> Iterator[Pod]:
    """All pods that a document would start, those in custom resources too."""
    yield from _pods(document, f"{document['kind']} {document['metadata']['name']}")


def _pods(part: Any, place: str, labels: Mapping[str, str] | None = None) -> Iterator[Pod]:
    if isinstance(part, Mapping):
        if "containers" in part:
            yield Pod(place, labels or {}, part)
        for name, inner in part.items():
            metadata = part.get("metadata", {}) if name == "spec" else {}
            yield from _pods(inner, f"{place}.{name}", metadata.get("labels"))
    elif isinstance(part, list):
        for number, inner in enumerate(part):
            yield from _pods(inner, f"{place}[{number}]")


@cache
def build(folder: Path) -> str:
    """What kustomize makes of a folder, as YAML."""
    for program, *arguments in (("kustomize", "build"), ("kubectl", "kustomize")):
        if found := shutil.which(program):
            built = subprocess.run([found, *arguments, str(folder)], capture_output=True, text=True)
            assert built.returncode == 0, built.stderr
            return built.stdout
    pytest.skip("neither kustomize nor kubectl is here to build the overlays; their files are checked as written")


def documents(text: str) -> list[Document]:
    return [document for document in yaml.load_all(text, yaml.CSafeLoader) if document]


def as_written() -> list[Document]:
    """The objects in the files of `cluster/kuberay`, without those that tell kustomize what to do."""
    found = [document for file in sorted(KUBERAY.rglob("*.yaml")) for document in documents(file.read_text())]
    return [document for document in found if document["kind"] not in ("Kustomization", "Component")]


@cache
def locked(package: str) -> str:
    """Version of a package in the lock file."""
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    return next(str(entry["version"]) for entry in packages if entry["name"] == package)


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())
