"""What objects of Kubernetes say of one another: names and labels that no other has."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from tests.cluster.documents import Document, Pod, pods

SECRETS: Final = ("mlflow-server", "mlflow-client")
"""Made by hand (cluster/kuberay/README.md)."""
_BY_KUBERAY: Final = ({"ray.io/is-ray-node": "yes", "ray.io/node-type": "head"}, {"ray.io/is-ray-node": "yes"})
"""Labels that KubeRay gives pods of heads and of workers."""


def reference_faults(documents: list[Document]) -> list[str]:
    """Names of objects that are not among the documents."""
    there = {(document["kind"], document["metadata"]["name"]) for document in documents}
    there |= {("Secret", name) for name in SECRETS}
    return [
        f"{pod.place}: there is no {kind} {name}"
        for document in documents
        for pod in pods(document)
        for kind, name in _named(pod)
        if (kind, name) not in there
    ]


def _named(pod: Pod) -> Iterator[tuple[str, str]]:
    if "priorityClassName" in pod.spec:
        yield "PriorityClass", pod.spec["priorityClassName"]
    yield "ServiceAccount", pod.spec["serviceAccountName"]
    for volume in pod.spec.get("volumes", ()):
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
    for _, container in pod.containers():
        yield from (("ConfigMap", source["configMapRef"]["name"]) for source in container.get("envFrom", ()))
        for variable in container.get("env", ()):
            if "secretKeyRef" in variable.get("valueFrom", {}):
                yield "Secret", variable["valueFrom"]["secretKeyRef"]["name"]


def selector_faults(documents: list[Document]) -> list[str]:
    """Services, policies and budgets for pods that nobody starts. The submitter's come with jobs."""
    labels = list(_labels(documents))
    return [
        f"{document['kind']} {document['metadata']['name']}: no pod has {selector}"
        for document in documents
        for selector in _selectors(document)
        if not any(selector.items() <= pod.items() for pod in labels)
    ]


def _labels(documents: Iterable[Document]) -> Iterator[dict[str, str]]:
    yield {"app.kubernetes.io/name": "submitter"}
    for document in documents:
        for pod in pods(document):
            by_kuberay = _BY_KUBERAY if document["kind"] in ("RayCluster", "RayJob") else ({},)
            yield from (dict(pod.labels) | added for added in by_kuberay)


def _selectors(document: Document) -> Iterator[dict[str, str]]:
    spec = document.get("spec", {})
    match document["kind"]:
        case "Service":
            yield spec["selector"]
        case "PodDisruptionBudget" | "Deployment" | "StatefulSet":
            yield spec["selector"]["matchLabels"]
        case "NetworkPolicy":
            yield from _match_labels(spec, "podSelector")


def _match_labels(part: Any, key: str) -> Iterator[dict[str, str]]:
    if isinstance(part, Mapping):
        for name, inner in part.items():
            if name == key:
                yield inner.get("matchLabels", {})
            yield from _match_labels(inner, key)
    elif isinstance(part, list):
        for inner in part:
            yield from _match_labels(inner, key)
