"""What each node's Python would run: the same everywhere, and what this package was made for."""

import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

import metaug_ray
from metaug_ray.preflight.findings import Failed, Finding, fault, faults
from metaug_ray.tracking.environment import git_state

_CHECK: Final = "versions"
_PACKAGES: Final = {"torch": "torch", "FFCV": "metaug_ray.data.ffcv_api", "Ray": "ray", "MLflow": "mlflow"}
"""What is imported to see that it can be, by package."""
_PROJECT: Final = "metaug-ray"
_ADVICE: Final = (
    "make the environment of this node as that of the others: `uv sync --locked` of the same commit, or the same image"
)


@dataclass(frozen=True)
class Versions:
    """Of one node.

    Attributes:
        found: version by package. `code` tells the package's own sources, also where their commit is not known.
        broken: why a package cannot be used, by package.
    """

    found: Mapping[str, str]
    broken: Mapping[str, str]


def versions() -> Versions:
    """Of this process's Python. Imports what it names."""
    found, broken = {"Python": platform.python_version()}, dict(unmet())
    for package, module in _PACKAGES.items():
        try:
            import_module(module)
            found[package] = importlib.metadata.version(package.lower())
        # A library that was compiled elsewhere may raise anything.
        except Exception as error:
            broken[package] = f"cannot be imported ({type(error).__name__}: {error})"
    if "torch" in found:
        found["NCCL"] = _nccl()
    found[_PROJECT] = _own_version()
    if commit := git_state():
        found["commit"] = commit["commit"][:12] + (" changed" if commit["changed"] == "yes" else "")
    found["code"] = code_sum(Path(metaug_ray.__file__).parent)
    return Versions(found, broken)


def unmet() -> dict[str, str]:
    """Requirements of this package that what is installed does not meet, by package."""
    wrong = {}
    for text in _requirements():
        needed = Requirement(text)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(needed.name)
        except importlib.metadata.PackageNotFoundError:
            wrong[needed.name] = f"is not installed, and {needed} is needed"
            continue
        if not needed.specifier.contains(version, prereleases=True):
            wrong[needed.name] = f"is {version}, and {needed.specifier} is needed"
    return wrong


def code_sum(folder: Path) -> str:
    """Twelve digits of a SHA-256 of all Python sources below a folder, their paths among them."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:12]


def check_versions(told: Mapping[str, Versions], failed: Mapping[str, Failed], home: str) -> list[Finding]:
    """What differs from the driver's node, and what is broken.

    Args:
        told: by node.
        failed: why others told nothing, by node.
        home: the driver's node.
    """
    findings = faults(_CHECK, failed, _ADVICE)
    reference = told.get(home)
    for node, own in told.items():
        wrong = [f"{package} {why}" for package, why in own.broken.items()]
        if reference is not None:
            wrong += [
                f"{package} {own.found[package]}, and {version} on {home}"
                for package, version in reference.found.items()
                # Whoever has no commit, as a copy has none, is told by its code.
                if own.found.get(package, version) != version
            ]
        if wrong:
            findings.append(fault(node, _CHECK, "; ".join(wrong), _ADVICE))
        else:
            findings.append(
                Finding(node, _CHECK, ", ".join(f"{name} {version}" for name, version in own.found.items()))
            )
    return findings


def _requirements() -> list[str]:
    try:
        return importlib.metadata.requires(_PROJECT) or []
    except importlib.metadata.PackageNotFoundError:  # its sources lie in the working directory
        return []


def _own_version() -> str:
    try:
        return importlib.metadata.version(_PROJECT)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _nccl() -> str:
    import torch

    return ".".join(map(str, torch.cuda.nccl.version())) if torch.version.cuda else "none"
