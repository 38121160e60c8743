"""What may be wrong with manifests. Each function takes documents, and returns a sentence for each fault."""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

from tests.cluster.documents import IN_IMAGE, Document, pods
from tests.cluster.image import PROGRAMS, Image

THIRD_PARTY: Final = ("docker.io/library/postgres:17.6-bookworm", "ghcr.io/versity/versitygw:v1.0.5")
"""Images of others, each of a version."""

_SECRET_NAME: Final = re.compile(r"password|passwd|token|secret|access_?key|credential", re.IGNORECASE)
_PLACE_OF_SECRET: Final = re.compile(r"_(FILE|PATH|DIR|MODE)$|^(secretName|mode|secrets?|HttpTokens)$")
_SECRET: Final = re.compile(
    r"AKIA[0-9A-Z]{16}|-----BEGIN|(?<![0-9a-f:@])[0-9a-f]{32,}|://[^/\s:@]+:[^/\s@]+@|\$\{\w*(?:PASS|TOKEN|SECRET|KEY)\w*:?-(?!/)"
)
_UNITS: Final = {"": 1, "m": Fraction(1, 1000), "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_SHARED_BESIDES: Final = 400 * 2**20
"""Bytes that /dev/shm has at least besides Ray's object store."""


def quantity(text: str) -> Fraction:
    """Bytes, or CPUs, of what Kubernetes calls a quantity."""
    number, unit = re.fullmatch(r"([\d.]+)([A-Za-z]*)", text).groups()  # type: ignore[union-attr]
    return Fraction(number) * _UNITS[unit]


def image_faults(found: Iterable[tuple[str, str]], ours: str) -> list[str]:
    """Images, given with their places, that are neither ours by name and tag nor a known version of others'."""
    return [f"{place}: {image} is not {ours}" for place, image in found if image not in (ours, *THIRD_PARTY)]


def images(documents: Iterable[Document]) -> Iterator[tuple[str, str]]:
    for document in documents:
        for pod in pods(document):
            yield from ((place, container["image"]) for place, container in pod.containers())


def version_faults(documents: Iterable[Document], ray: str) -> list[str]:
    """Custom resources for another version of Ray than the lock file's."""
    return [
        f"{place} is {version}, and uv.lock has {ray}"
        for document in documents
        for place, name, version in _leaves(document, document["kind"])
        if name == "rayVersion" and version != ray
    ]


def secret_faults(document: Any, place: str) -> list[str]:
    """Secrets that stand in a document instead of its name or place."""
    faults = [f"{place}: a Secret belongs in no file"] if _is_secret(document) else []
    for where, name, value in _leaves(document, place):
        if not isinstance(value, str):
            continue
        if _SECRET_NAME.search(name) and not _PLACE_OF_SECRET.search(name) and not re.match(r"[\"']?[/$~]", value):
            faults.append(f"{where}: {name} has a value")
        if match := _SECRET.search(value):
            faults.append(f"{where}: {match[0]} looks like a secret")
    return faults


def text_faults(text: str, place: str) -> list[str]:
    """The same in a file that is not YAML."""
    return [f"{place}: {match[0]} looks like a secret" for match in _SECRET.finditer(text)]


def _is_secret(document: Any) -> bool:
    return isinstance(document, Mapping) and document.get("kind") == "Secret"


def _leaves(part: Any, place: str, name: str = "") -> Iterator[tuple[str, str, Any]]:
    """Place, name and value of all that has no parts. A variable's name is that of its value."""
    if isinstance(part, Mapping):
        for key, inner in part.items():
            called = str(part["name"]) if key == "value" and "name" in part else str(key)
            if key not in ("secretKeyRef", "items"):
                yield from _leaves(inner, f"{place}.{key}", called)
    elif isinstance(part, list):
        for number, inner in enumerate(part):
            # NAME=value, as in Compose's other way to write variables.
            variable = re.match(r"(\w+)=(.*)", inner) if isinstance(inner, str) else None
            called, value = variable.groups() if variable else ("", inner)
            yield from _leaves(value, f"{place}[{number}]", called)
    else:
        yield place, name, part


def security_faults(documents: Iterable[Document]) -> list[str]:
    """Pods that Kubernetes' standard `restricted` would refuse, that may write to their image, or without limits."""
    faults = []
    for pod in (pod for document in documents for pod in pods(document)):
        security = pod.spec.get("securityContext", {})
        if not security.get("runAsNonRoot") or not security.get("runAsUser"):
            faults.append(f"{pod.place}: may run as root")
        if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            faults.append(f"{pod.place}: has no seccomp profile")
        for place, container in pod.containers():
            faults += _container_security(place, container)
    return faults


def _container_security(place: str, container: Mapping[str, Any]) -> Iterator[str]:
    own = container.get("securityContext", {})
    if own.get("allowPrivilegeEscalation") is not False or own.get("capabilities", {}).get("drop") != ["ALL"]:
        yield f"{place}: may gain rights"
    if own.get("readOnlyRootFilesystem") is not True:
        yield f"{place}: its root file system is writable"
    resources = container.get("resources", {})
    for part in ("requests", "limits"):
        if missing := {"cpu", "memory"} - resources.get(part, {}).keys():
            yield f"{place}: no {part} of {' and '.join(sorted(missing))}"
    for name, limit in resources.get("limits", {}).items():
        if name in resources.get("requests", {}) and quantity(resources["requests"][name]) > quantity(limit):
            yield f"{place}: requests more {name} than its limit"


def mount_faults(documents: Iterable[Document], image: Image, settings: Mapping[str, str]) -> list[str]:
    """Pods of our image that cannot write where its programs do, or whose mounts hide its files or have no volume.

    Args:
        documents: to check.
        image: that our pods run.
        settings: variables that Ray's nodes have, which name folders.
    """
    faults = []
    for pod in (pod for document in documents for pod in pods(document)):
        volumes = {volume["name"] for volume in pod.spec.get("volumes", ())}
        volumes |= {"data"} if pod.place.startswith("StatefulSet") else set()
        for place, container in pod.containers():
            mounts = {mount["mountPath"]: mount for mount in container.get("volumeMounts", ())}
            faults += [
                f"{place}: {path} has no volume {mount['name']}"
                for path, mount in mounts.items()
                if mount["name"] not in volumes
            ]
            if container["image"].startswith("metaug-ray:"):
                if pod.spec["securityContext"].get("runAsUser") != image.user:
                    faults.append(f"{place}: its user is not the image's, {image.user}")
                faults += [f"{place}: {path} hides the image's files" for path in mounts if _hides(path)]
                writable = [path for path, mount in mounts.items() if not mount.get("readOnly")]
                needed = ["/tmp", image.home, *(_folders(settings) if container["name"] == "ray-worker" else ())]
                faults += [f"{place}: {path} is not writable" for path in needed if not _within(path, writable)]
    return faults


def _hides(path: str) -> bool:
    return path == "/" or Path(path).is_relative_to(IN_IMAGE) or IN_IMAGE.is_relative_to(path)


def _folders(settings: Mapping[str, str]) -> list[str]:
    return [value for value in settings.values() if value.startswith("/")]


def _within(path: str, folders: Iterable[str]) -> bool:
    return any(Path(path).is_relative_to(folder) for folder in folders)


def command_faults(place: str, command: list[str], image: Image) -> list[str]:
    """A command that begins with no program of the image, or names files that are not in it."""
    words = [word for part in command for word in (shlex.split(part) if " " in part.strip() else [part])]
    faults = [f"{place}: {words[0]} is no program of the image"] if words[0] not in PROGRAMS else []
    inside = [word for word in words if Path(word).is_relative_to(IN_IMAGE)]
    # Relative to the image's working directory.
    inside += [str(IN_IMAGE / word) for word in words if re.fullmatch(r"(jobs|docker)/\S+", word)]
    return faults + [f"{place}: {path} is not in the image" for path in inside if image.lacks(path)]


def memory_faults(documents: Iterable[Document]) -> list[str]:
    """Nodes of Ray whose /dev/shm is too small for the object store, or takes more than half of the memory."""
    faults = []
    for document in documents:
        spec = document["spec"] if document["kind"] == "RayCluster" else document.get("spec", {}).get("rayClusterSpec")
        for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]] if spec else []:
            pod = group["template"]["spec"]
            name = f"{document['kind']} {document['metadata']['name']}, {group.get('groupName', 'head')}"
            sizes = [v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if v.get("emptyDir", {}).get("medium")]
            shared = quantity(sizes[0])
            store = quantity(group["rayStartParams"]["object-store-memory"])
            if shared < store + _SHARED_BESIDES:
                faults.append(f"{name}: /dev/shm of {sizes[0]} has no room besides the object store of {store} bytes")
            if shared > quantity(pod["containers"][0]["resources"]["requests"]["memory"]) / 2:
                faults.append(f"{name}: /dev/shm of {sizes[0]} is more than half of the memory")
    return faults
