"""The manifests of `cluster/kuberay`, as kustomize builds them."""

import re
from functools import cache
from pathlib import Path

import pytest
import yaml

from tests.cluster import checks
from tests.cluster.documents import KUBERAY, OVERLAYS, as_written, build, documents, locked, pods
from tests.cluster.image import Image, tag
from tests.cluster.overlays import applied, built, cluster_specs, commands_of, read_settings, settings
from tests.cluster.references import SECRETS, reference_faults, selector_faults
from tests.cluster.schemas import schema_faults

README = KUBERAY / "README.md"


@pytest.fixture(params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@cache
def _schema_faults(text: str) -> list[str]:
    return schema_faults(yaml.safe_load(text))


def test_objects_are_what_their_schemas_allow(overlay: str) -> None:
    for document in built(overlay):
        assert not _schema_faults(yaml.safe_dump(document)), f"{document['kind']} {document['metadata']['name']}"


def test_all_is_of_this_package_and_its_lock_file(overlay: str) -> None:
    found = applied(overlay)
    assert not checks.image_faults(checks.images(found), tag("cpu" if overlay.startswith("cpu") else "gpu"))
    assert not checks.version_faults(found, locked("ray"))


def test_pods_may_do_what_they_need_and_nothing_else(overlay: str, image: Image) -> None:
    found = applied(overlay)
    assert not checks.security_faults(found)
    assert not checks.mount_faults(found, image, settings(overlay))
    assert not checks.memory_faults(found)


def test_names_and_labels_are_those_of_others(overlay: str) -> None:
    found = applied(overlay)
    assert not reference_faults(found)
    assert not selector_faults(found)


def test_files_as_written(image: Image) -> None:
    """What can be told without kustomize."""
    found = as_written()
    assert {"RayCluster", "RayJob", "NetworkPolicy", "PriorityClass"} <= {document["kind"] for document in found}
    assert not checks.image_faults(checks.images(found), tag("gpu"))
    assert not checks.version_faults(found, locked("ray"))
    assert not checks.security_faults(found)
    assert not checks.memory_faults(found)
    assert not reference_faults(found)


@pytest.mark.parametrize("file", sorted(KUBERAY.rglob("*.yaml")), ids=lambda file: str(file.relative_to(KUBERAY)))
def test_no_file_holds_a_secret(file: Path) -> None:
    for document in documents(file.read_text()):
        assert not checks.secret_faults(document, file.name)
    assert not checks.text_faults(file.read_text(), file.name)


def test_every_node_of_ray_asks_for_a_token(overlay: str) -> None:
    assert [spec["authOptions"] for spec in cluster_specs(built(overlay))] == [{"mode": "token"}]


def test_workers_are_there_when_a_job_counts_them(overlay: str) -> None:
    for group in (group for spec in cluster_specs(built(overlay)) for group in spec["workerGroupSpecs"]):
        assert 1 <= group["minReplicas"] == group["replicas"] <= group["maxReplicas"]


def test_only_the_gpu_overlays_ask_for_gpus(overlay: str) -> None:
    asked = [
        container["resources"]["limits"].get("nvidia.com/gpu")
        for document in built(overlay)
        for pod in pods(document)
        for _, container in pod.containers()
        if container["name"] == "ray-worker"
    ]
    assert asked == (["8"] if overlay.startswith("gpu") else [None])
    assert settings(overlay)["METAUG_COMPUTE__DEVICE"] == ("gpu" if overlay.startswith("gpu") else "cpu")


def test_commands_are_of_the_image_and_their_settings_are_read(
    overlay: str, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings(overlay).items():
        monkeypatch.setenv(name, value)
    jobs = 0
    for document in built(overlay):
        for pod in pods(document):
            for place, container in pod.containers():
                if container["image"].startswith("metaug-ray:") and "command" in container:
                    assert not checks.command_faults(place, container["command"], image)
        if document["kind"] == "RayJob":
            commands = commands_of(document["spec"]["entrypoint"])
            assert not [fault for command in commands for fault in checks.command_faults(overlay, command, image)]
            jobs += [read_settings(command, monkeypatch) for command in commands].count(0)
    assert jobs == {"gpu": 0, "cpu-test": 0, "cpu-test/train": 2}.get(overlay, 1)


def test_the_bucket_takes_the_place_of_volumes(tmp_path: Path, image: Image) -> None:
    # kustomize wants relative paths.
    up = "/".join([".."] * len(tmp_path.resolve().parts[1:]))
    (tmp_path / "kustomization.yaml").write_text(
        "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
        f"resources: [{up}{KUBERAY}/overlays/gpu]\ncomponents: [{up}{KUBERAY}/components/bucket]\n"
    )
    found = documents(build(tmp_path))
    assert not [document for document in found if document["kind"] == "PersistentVolumeClaim"]
    bucket = next(document["data"] for document in found if document["kind"] == "ConfigMap")
    assert bucket["METAUG_STORAGE"].startswith("s3://")
    assert not checks.mount_faults(found, image, bucket)
    assert not reference_faults(found)
    assert not [fault for document in found for fault in _schema_faults(yaml.safe_dump(document))]


def test_the_page_makes_the_secrets() -> None:
    made = re.findall(r"create secret generic ([\w-]+)", README.read_text())
    assert set(made) == set(SECRETS)
