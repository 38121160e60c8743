"""A fault of each kind, put into the manifests, is found by the checks of test_kuberay.py."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from metaug_ray.commands import base
from tests.cluster import checks
from tests.cluster.documents import IN_IMAGE, Document, as_written, locked
from tests.cluster.image import Image, tag
from tests.cluster.overlays import built, read_settings, settings
from tests.cluster.references import reference_faults, selector_faults
from tests.cluster.schemas import schema_faults


def the(documents: list[Document], kind: str, name: str | None = None) -> Document:
    return next(d for d in documents if d["kind"] == kind and name in (None, d["metadata"]["name"]))


def worker(documents: list[Document]) -> Any:
    return the(documents, "RayCluster")["spec"]["workerGroupSpecs"][0]


def pod(documents: list[Document]) -> Any:
    return worker(documents)["template"]["spec"]


PLANTED: dict[str, tuple[Callable[[list[Document]], Any], str]] = {
    "tag": (lambda d: pod(d)["containers"][0].update(image="metaug-ray:0.1.0-gpu"), "is not metaug-ray:"),
    "floating": (lambda d: pod(d)["containers"][0].update(image="postgres:latest"), "postgres:latest is not"),
    "ray": (lambda d: the(d, "RayCluster")["spec"].update(rayVersion="2.59.0"), "is 2.59.0, and uv.lock has"),
    "root": (lambda d: pod(d)["securityContext"].update(runAsNonRoot=False), "may run as root"),
    "seccomp": (lambda d: pod(d)["securityContext"].pop("seccompProfile"), "no seccomp profile"),
    "rights": (lambda d: pod(d)["containers"][0]["securityContext"].pop("capabilities"), "may gain rights"),
    "root file system": (
        lambda d: pod(d)["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False),
        "root file system is writable",
    ),
    "limits": (lambda d: pod(d)["containers"][0]["resources"]["limits"].pop("memory"), "no limits of memory"),
    "requests": (
        lambda d: pod(d)["containers"][0]["resources"]["requests"].update(memory="999Gi"),
        "requests more memory than its limit",
    ),
    "user": (lambda d: pod(d)["securityContext"].update(runAsUser=1001), "its user is not the image's, 1000"),
    "tmp": (lambda d: pod(d)["containers"][0]["volumeMounts"].pop(3), "/tmp is not writable"),
    "read-only": (lambda d: pod(d)["containers"][0]["volumeMounts"][0].update(readOnly=True), "/storage/runs is not"),
    "volume": (lambda d: pod(d)["volumes"].pop(1), "/staging has no volume staging"),
    "hidden": (
        lambda d: pod(d)["containers"][0]["volumeMounts"][0].update(mountPath="/opt"),
        "/opt hides the image's files",
    ),
    "shm": (lambda d: pod(d)["volumes"][4]["emptyDir"].update(sizeLimit="16Gi"), "no room besides the object store"),
    "much shm": (lambda d: pod(d)["volumes"][4]["emptyDir"].update(sizeLimit="400Gi"), "more than half of the memory"),
    "claim": (
        lambda d: pod(d)["volumes"][0]["persistentVolumeClaim"].update(claimName="store"),
        "there is no PersistentVolumeClaim store",
    ),
    "account": (lambda d: pod(d).update(serviceAccountName="nobody"), "there is no ServiceAccount nobody"),
    "secret": (
        lambda d: pod(d)["containers"][0]["env"][0]["valueFrom"]["secretKeyRef"].update(name="mlflow"),
        "there is no Secret mlflow",
    ),
    "settings": (lambda d: d.remove(the(d, "ConfigMap")), "there is no ConfigMap settings"),
    "priority": (lambda d: d.remove(the(d, "PriorityClass", "metaug-workers")), "there is no PriorityClass"),
    "service": (
        lambda d: the(d, "Service", "mlflow")["spec"].update(selector={"app": "mlflow"}),
        "Service mlflow: no pod has",
    ),
    "policy": (
        lambda d: the(d, "NetworkPolicy", "mlflow")["spec"]["ingress"][0]["from"][0].update(
            podSelector={"matchLabels": {"ray.io/is-ray-node": "no"}}
        ),
        "NetworkPolicy mlflow: no pod has",
    ),
    "budget": (
        lambda d: the(d, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].update({"ray.io/node-type": "h"}),
        "PodDisruptionBudget metaug: no pod has",
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str, image: Image) -> None:
    plant, said = PLANTED[name]
    found = deepcopy(built("gpu"))
    environment = settings("gpu")
    plant(found)
    faults = [
        *checks.image_faults(checks.images(found), tag("gpu")),
        *checks.version_faults(found, locked("ray")),
        *checks.security_faults(found),
        *checks.mount_faults(found, image, environment),
        *checks.memory_faults(found),
        *reference_faults(found),
        *selector_faults(found),
    ]
    assert any(said in fault for fault in faults), faults


@pytest.mark.parametrize(
    ("kind", "plant", "said"),
    [
        ("RayJob", lambda job: job["spec"].update(entrypont="python"), "'entrypont' was unexpected"),
        ("RayCluster", lambda c: c["spec"]["workerGroupSpecs"][0].update(minReplicas="one"), "not of type 'integer'"),
        ("RayCluster", lambda c: c["spec"].update(authOptions={"mode": "password"}), "is not one of"),
        ("RayCluster", lambda c: c["spec"].pop("headGroupSpec"), "'headGroupSpec' is a required property"),
        ("NetworkPolicy", lambda policy: policy["spec"].update(ingres=[]), "ingres"),
        ("StatefulSet", lambda s: s["spec"]["template"]["spec"]["containers"][0].pop("name"), "name"),
        ("PodDisruptionBudget", lambda budget: budget["spec"].update(minAvailable=[1]), "minAvailable"),
    ],
)
def test_a_planted_fault_is_against_the_schema(kind: str, plant: Callable[[Document], Any], said: str) -> None:
    document = deepcopy(the(as_written(), kind))
    plant(document)
    assert said in "\n".join(schema_faults(document))


@pytest.mark.parametrize(
    "planted",
    [
        {"kind": "Secret", "data": {}},
        {"env": [{"name": "MLFLOW_TRACKING_PASSWORD", "value": "hunter2"}]},
        {"environment": ["RAY_AUTH_TOKEN=hunter2"]},
        {"environment": {"AWS_SECRET_ACCESS_KEY": "hunter2"}},
        {"args": ["--backend-store-uri", "postgresql://mlflow:hunter2@postgres/mlflow"]},
        {"command": ["curl", "-H", f"Bearer {'0a' * 32}"]},
        {"environment": {"POSTGRES_USER": "${POSTGRES_PASSWORD:-mlflow}"}},
    ],
)
def test_a_planted_secret_is_found(planted: Document) -> None:
    assert checks.secret_faults({"spec": planted} if "kind" not in planted else planted, "planted")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["pyhton", "jobs/imagenet_resnet50.py"], "pyhton is no program"),
        (["python", "/opt/metaug_ray/jobs/imagenet.py"], "jobs/imagenet.py is not in the image"),
        (["python", "/opt/metaug_ray/tests/docs/table.py"], "table.py is not in the image"),
        (["bash", "-c", "python jobs/train.py --name a"], "jobs/train.py is not in the image"),
    ],
)
def test_a_planted_command_is_found(command: list[str], said: str, image: Image) -> None:
    assert said in "\n".join(checks.command_faults("planted", command, image))


def test_a_planted_option_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(base.CommandError, match=r"data\.betno"):
        read_settings(["python", f"{IN_IMAGE}/jobs/imagenet_resnet50.py", "--data.betno", "a"], monkeypatch)
