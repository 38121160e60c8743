"""`docker/`: the Dockerfile, Compose's file, and the scripts."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster import checks
from tests.cluster.documents import ROOT, project
from tests.cluster.image import Image, read_image, tag

DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
SECRETS = {
    "aws_credentials",
    "mlflow_credentials",
    "mlflow_password",
    "mlflow_secret_key",
    "postgres_password",
    "ray_token",
    "s3_access_key",
    "s3_secret_key",
}


def lint(linter: str, *files: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which(linter, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert program is not None, f"{linter} is not there; `uv sync` installs it"
    return subprocess.run([program, *map(str, files)], capture_output=True, text=True)


def test_the_dockerfile_passes_its_linter(tmp_path: Path) -> None:
    assert not lint("hadolint", DOCKER / "Dockerfile").stdout
    planted = tmp_path / "Dockerfile"
    planted.write_text(DOCKERFILE.replace(" && rm -rf /var/lib/apt/lists/*", ""))
    assert "DL3009" in lint("hadolint", planted).stdout


@pytest.mark.parametrize("script", sorted(DOCKER.glob("*.sh")), ids=lambda file: file.name)
def test_scripts_pass_their_linter(script: Path, tmp_path: Path) -> None:
    assert not lint("shellcheck", script).stdout
    assert os.access(script, os.X_OK)
    planted = tmp_path / "planted.sh"
    planted.write_text(f"{script.read_text()}rm -r $1\n")
    assert "SC2086" in lint("shellcheck", planted).stdout


def test_the_image_is_of_the_lock_file() -> None:
    sync = re.findall(r"uv sync (.*)", DOCKERFILE)
    assert len(sync) == 1
    assert "--frozen" in sync[0]
    assert "--no-dev" in sync[0]
    assert set(re.findall(r"--group (\w+)", sync[0])) <= project()["dependency-groups"].keys()


def test_what_is_copied_is_there_and_sent(image: Image) -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignore
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists()
            assert f"!{path.split('/')[0]}" in ignore
    assert "docker/secrets" in ignore


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("USER 1000:1000", "USER metaug", "not root"),
        ("USER 1000:1000", "USER 0:0", "not root"),
        ("WORKDIR /opt/metaug_ray\nCOPY --from", "WORKDIR /app\nCOPY --from", "WORKDIR"),
    ],
)
def test_a_planted_fault_of_the_dockerfile_is_found(old: str, new: str, said: str) -> None:
    assert old in DOCKERFILE
    with pytest.raises(AssertionError, match=said):
        read_image(DOCKERFILE.replace(old, new))


def build_faults(text: str) -> list[str]:
    """What a build by buildah once showed: an image that could not import OpenCV, or was larger than it need be."""
    joined = re.sub(r"\\\n\s*", "", text)
    last = joined[joined.rindex("\nFROM ") :]
    found = [f"OpenCV finds no {library}" for library in ("libgl1", "libglib2.0-0") if f" {library} " not in last]
    steps = re.findall(r"^RUN .*", joined, re.MULTILINE)
    found += [
        "apt's cache of 75 MB stays" for step in steps if "apt-get install" in step and "apt-get clean" not in step
    ]
    if "LDFLAGS=-Wl,--strip-debug" not in text:
        found.append("FFCV holds the folder that it is compiled in")
    if "PYC_INVALIDATION_MODE=UNCHECKED_HASH" not in text:
        found.append("compiled bytecode holds the time of its build")
    if text.count("rm -f .venv/.lock") != 1 or text.count("rm -f /opt/package/.lock") != 1:
        found.append("anybody may write a lock of uv's")
    if last.index("COMMIT") < last.index("COPY"):
        found.append("another commit makes all layers anew")
    if "SSL_CERT_FILE=" not in text:
        found.append("uv does not know the certificate authorities of the base")
    return found


def test_the_build_makes_what_works() -> None:
    assert not build_faults(DOCKERFILE)


@pytest.mark.parametrize(
    ("old", "said"),
    [
        (" libgl1", "no libgl1"),
        (" libglib2.0-0", "no libglib2.0-0"),
        ("apt-get clean && ", "apt's cache"),
        ("LDFLAGS=-Wl,--strip-debug", "FFCV holds"),
        ("PYC_INVALIDATION_MODE=UNCHECKED_HASH", "the time of its build"),
        ("SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt", "certificate authorities"),
        ("rm -f .venv/.lock", "a lock of uv's"),
    ],
)
def test_a_planted_fault_of_the_build_is_found(old: str, said: str) -> None:
    assert said in "\n".join(build_faults(DOCKERFILE.replace(old, "")))


def test_a_commit_among_the_first_layers_is_found() -> None:
    early = DOCKERFILE.replace("\nCOPY --from=builder", "\nARG COMMIT=unknown\nCOPY --from=builder")
    assert build_faults(early) == ["another commit makes all layers anew"]


def compose() -> Any:
    return yaml.safe_load((DOCKER / "compose.yaml").read_text())


def compose_faults(document: Any, image: Image) -> list[str]:
    """What would be open, unwatched or missing in a cluster of Compose."""
    services = document["services"]
    found = checks.image_faults(((name, service["image"]) for name, service in services.items()), tag("cpu"))
    found += checks.secret_faults(document, "compose.yaml")
    if document["secrets"] != {name: {"file": f"secrets/{name}"} for name in SECRETS}:
        found.append("make_secrets.sh makes other files than the secrets")
    for name, service in services.items():
        found += [f"{name}: {port} is open to all" for port in service.get("ports", ()) if "127.0.0.1:" not in port]
        found += [f"{name}: no service {other}" for other in service.get("depends_on", ()) if other not in services]
        if not service.get("read_only"):
            found.append(f"{name}: its root file system is writable")
        used = {entry if isinstance(entry, str) else entry["source"] for entry in service.get("secrets", ())}
        found += [f"{name}: no secret {secret}" for secret in used - SECRETS]
        volumes = [entry.split(":")[0] for entry in service.get("volumes", ()) if ":" in entry]
        found += [f"{name}: no volume {volume}" for volume in volumes if volume not in document["volumes"]]
        if service["image"] == tag("cpu"):
            found += _own_faults(name, service, image)
        elif "healthcheck" not in service:
            found.append(f"{name}: nobody looks whether it works")
    return found


def _own_faults(name: str, service: Any, image: Image) -> list[str]:
    command = service["command"]
    found = checks.command_faults(name, command.split() if isinstance(command, str) else command, image)
    if "ray start" in command:
        if service["environment"].get("RAY_AUTH_MODE") != "token":
            found.append(f"{name}: Ray starts without tokens")
        store = int(re.findall(r"--object-store-memory=(\d+)", command)[0])
        if int(service["shm_size"].removesuffix("gb")) * 2**30 < store + 2**28:
            found.append(f"{name}: /dev/shm has no room besides the object store")
    return found


def test_compose_is_closed_watched_and_whole(image: Image) -> None:
    assert not compose_faults(compose(), image)
    assert not checks.text_faults((DOCKER / "compose.yaml").read_text(), "compose.yaml")


@pytest.mark.parametrize(
    ("plant", "said"),
    [
        (lambda s: s["head"].update(image="metaug-ray:latest"), "metaug-ray:latest is not"),
        (lambda s: s["s3"].update(image="ghcr.io/versity/versitygw"), "versitygw is not"),
        (lambda s: s["head"].update(ports=["8265:8265"]), "8265:8265 is open to all"),
        (lambda s: s["worker"].update(depends_on=["haed"]), "no service haed"),
        (lambda s: s["mlflow"].update(read_only=False), "root file system is writable"),
        (lambda s: s["mlflow"].update(secrets=["password"]), "no secret password"),
        (lambda s: s["head"].update(volumes=["data:/data"]), "no volume data"),
        (lambda s: s["postgres"].pop("healthcheck"), "nobody looks"),
        (lambda s: s["mlflow"].update(command=["bash", "docker/serve.sh"]), "docker/serve.sh is not in the image"),
        (lambda s: s["worker"].update(environment={}), "without tokens"),
        (lambda s: s["worker"].update(shm_size="1gb"), "no room besides the object store"),
        (lambda s: s["postgres"]["environment"].update(POSTGRES_PASSWORD="mlflow"), "POSTGRES_PASSWORD has a value"),
    ],
)
def test_a_planted_fault_of_compose_is_found(plant: Callable[[Any], Any], said: str, image: Image) -> None:
    document = deepcopy(compose())
    plant(document["services"])
    assert said in "\n".join(compose_faults(document, image))


@pytest.mark.parametrize(
    "file", [file for file in sorted(DOCKER.iterdir()) if file.is_file()], ids=lambda file: file.name
)
def test_no_file_holds_a_secret(file: Path) -> None:
    assert not checks.text_faults(file.read_text(), file.name)


def test_the_page_builds_what_manifests_run() -> None:
    built = re.findall(r"-t (\S+)", (DOCKER / "README.md").read_text())
    assert built == [tag("gpu"), tag("cpu")]


def drawn(folder: Path) -> dict[str, str]:
    subprocess.run(["bash", str(DOCKER / "make_secrets.sh"), str(folder)], check=True, capture_output=True)
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_secrets_are_drawn_once(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    first, again = drawn(folder), drawn(folder)
    assert again == first
    assert first.keys() == SECRETS
    assert folder.stat().st_mode & 0o777 == 0o700
    assert len({value for value in first.values() if len(value) >= 20}) == len(SECRETS)
    assert first["mlflow_password"] in first["mlflow_credentials"]
    assert first["s3_secret_key"] in first["aws_credentials"]


def test_one_lost_secret_is_drawn_anew(tmp_path: Path) -> None:
    before = drawn(tmp_path)
    (tmp_path / "ray_token").unlink()
    after = drawn(tmp_path)
    assert len(after["ray_token"]) == 64
    assert {name for name in SECRETS if before[name] != after[name]} == {"ray_token"}


SERVER = {"MLFLOW_BACKEND_STORE_URI": "postgresql://mlflow@postgres:5432/mlflow", "MLFLOW_ARTIFACTS_DESTINATION": "/a"}


def serve(environment: dict[str, str], programs: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(DOCKER / "serve_mlflow.sh")],
        env={"PATH": f"{programs}:{os.environ['PATH']}"} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("missing", ["mlflow_password", "mlflow_secret_key", "postgres_password"])
def test_the_server_does_not_start_without_a_secret(missing: str, tmp_path: Path) -> None:
    for name in SECRETS - {missing}:
        (tmp_path / name).write_text("x" * 64)
    ended = serve(SERVER | {"SECRETS_DIR": str(tmp_path)}, tmp_path)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"serve_mlflow.sh: {tmp_path}/{missing} is missing or empty")
    assert len(ended.stderr.splitlines()) == 1


def test_the_server_hears_secrets_by_its_environment_alone(tmp_path: Path) -> None:
    for name in SECRETS:
        (tmp_path / name).write_text(f"{name}-value")
    program = tmp_path / "mlflow"
    program.write_text('#!/bin/sh\necho "arguments: $*"\nenv\necho "file:"\ncat "$MLFLOW_AUTH_CONFIG_PATH"\n')
    program.chmod(0o755)
    ended = serve(SERVER | {"SECRETS_DIR": str(tmp_path)}, tmp_path)
    assert ended.returncode == 0, ended.stderr
    arguments, rest = ended.stdout.split("\n", 1)
    variables, file = rest.split("file:\n")
    assert "--app-name basic-auth" in arguments
    assert "database_uri = postgresql+psycopg2://mlflow@postgres:5432/mlflow" in file
    assert "MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://mlflow@postgres:5432/mlflow\n" in variables
    assert "-value" not in arguments + file
    driven = "postgresql+psycopg2://mlflow@postgres:5432/mlflow"
    assert f"MLFLOW_BACKEND_STORE_URI={driven}\n" in variables
    assert f"database_uri = {driven}\n" in file
    for variable, name in (
        ("MLFLOW_AUTH_ADMIN_PASSWORD", "mlflow_password"),
        ("MLFLOW_FLASK_SERVER_SECRET_KEY", "mlflow_secret_key"),
        ("PGPASSWORD", "postgres_password"),
    ):
        assert f"{variable}={name}-value\n" in variables
