"""docker/compose.yaml, started by podman-compose in a network of its own, and a job submitted to it.

Images of others are not in reach here: PostgreSQL is Debian's, and the S3 server is moto (`stand_ins/`).
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.image.base import BASE
from tests.image.engine import Engine
from tests.image.report import FaultError

PODMAN_COMPOSE: Final = "podman-compose==1.6.0"
STAND_INS: Final = {
    "postgres": "docker.io/library/postgres:17.6-bookworm",
    "s3": "ghcr.io/versity/versitygw:v1.0.5",
}
ORDER: Final = ("owner", "s3", "buckets", "postgres", "mlflow", "head", "worker")
"""As `depends_on` says; podman cannot wait for health without systemd, so it is done here."""
_COMPOSE: Final = ("--from", PODMAN_COMPOSE, "podman-compose")
_ENDING: Final = ("owner", "buckets")
_NETWORK: Final = "metaug-image"
_DASHBOARD: Final = "http://127.0.0.1:8265"
_MLFLOW: Final = "http://127.0.0.1:5000"


class Compose:
    """A cluster of docker/compose.yaml.

    Args:
        engine: where the CPU image is.
        tree: copy of the repository, whose folder docker/secrets is written.
    """

    def __init__(self, engine: Engine, tree: Path) -> None:
        self.engine = engine
        self.file = tree / "docker" / "compose.yaml"
        self.secrets = tree / "docker" / "secrets"

    def check(self) -> str:
        """Start it, ask without and with passwords, submit a job, and look for secrets in what can be seen."""
        for file in self.secrets.iterdir():
            file.unlink()
        subprocess.run(["bash", str(self.file.with_name("make_secrets.sh"))], check=True, capture_output=True)
        self._fetch()
        with self._network():
            try:
                seconds = self._start()
                self._ask()
                finished = self._submit()
                self._search()
            finally:
                self._compose("down", "--volumes", "--timeout=10")
        return f"all healthy after {seconds:.0f} s; without token or password 401; {finished}; no secret in sight"

    def _fetch(self) -> None:
        """What the namespace, which reaches nothing, cannot."""
        subprocess.run(["uvx", *_COMPOSE, "--version"], check=True, capture_output=True, env=self.engine.environment)
        for name, image in STAND_INS.items():
            file = Path(__file__).parent / "stand_ins" / f"{name}.Dockerfile"
            self.engine.buildah(
                "bud",
                "--format=docker",
                "--layers",
                f"--build-arg=BASE={BASE}",
                f"--file={file}",
                f"--tag={image}",
                str(file.parent),
            )

    @contextmanager
    def _network(self) -> Iterator[None]:
        """Ports of this machine alone are free in a network namespace of its own."""
        subprocess.run(["ip", "netns", "add", _NETWORK], check=True)
        try:
            self._run("ip", "link", "set", "lo", "up")
            yield
        finally:
            subprocess.run(["ip", "netns", "delete", _NETWORK], check=True)

    def _run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the namespace; output and errors come together."""
        ended = subprocess.run(
            ["nsenter", f"--net=/run/netns/{_NETWORK}", *command],
            env=self.engine.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        with self.engine.log.open("a", encoding="utf-8") as log:
            log.write(f"$ {' '.join(command)}\n{ended.stdout}\n-> {ended.returncode}\n")
        return ended

    def _podman(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("podman", *self.engine.places, *arguments)

    def _compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        places = f"--podman-args={' '.join(self.engine.places)}"
        return self._run("uvx", "--offline", *_COMPOSE, places, f"--file={self.file}", *arguments)

    def _start(self) -> float:
        began = time.monotonic()
        for service in ORDER:
            scale = ("--scale=worker=2",) if service == "worker" else ()
            started = self._compose("up", "--detach", "--no-build", "--no-deps", *scale, service)
            if started.returncode:
                raise FaultError(f"compose cannot start {service}: {started.stdout.strip().splitlines()[-1]}")
            for container in self._containers(service):
                self._wait(service, container)
        return time.monotonic() - began

    def _containers(self, service: str) -> list[str]:
        label = f"label=com.docker.compose.service={service}"
        return self._podman("ps", "--all", "--filter", label, "--format={{.Names}}").stdout.split()

    def _wait(self, service: str, container: str) -> None:
        for _ in range(180):
            if service in _ENDING:
                state = self._podman("inspect", "--format={{.State.Status}} {{.State.ExitCode}}", container)
                if state.stdout.strip() == "exited 0":
                    return
            elif self._podman("healthcheck", "run", container).returncode == 0:
                return
            time.sleep(1)
        last = self._podman("logs", "--tail=3", container).stdout.strip()
        raise FaultError(f"{service} is not {'done' if service in _ENDING else 'healthy'} after minutes: {last}")

    def _ask(self) -> None:
        token, password = ((self.secrets / name).read_text() for name in ("ray_token", "mlflow_password"))
        search = f"{_MLFLOW}/api/2.0/mlflow/experiments/search?max_results=5"
        asked = {
            "MLflow without a password": (search, (), 401),
            "MLflow with a wrong password": (search, ("--user=admin", "--password=wrong"), 401),
            "MLflow with its password": (search, ("--user=admin", f"--password={password}"), 200),
            "Ray without a token": (f"{_DASHBOARD}/api/jobs/", (), 401),
            "Ray with a wrong token": (f"{_DASHBOARD}/api/jobs/", (f"--header=Authorization: Bearer {'0' * 64}",), 403),
            "Ray with its token": (f"{_DASHBOARD}/api/jobs/", (f"--header=Authorization: Bearer {token}",), 200),
        }
        for who, (address, options, expected) in asked.items():
            wget = self._run("wget", "-S", "-O", "/dev/null", "--auth-no-challenge", *options, address)
            found = [line.split()[1] for line in wget.stdout.splitlines() if line.strip().startswith("HTTP/")]
            if not found or int(found[-1]) != expected:
                raise FaultError(f"{who} is answered {found}; expected {expected}")

    def _submit(self) -> str:
        jobs = (
            ("prepare_data.py", "--source.kind=shapes", "--source.count=512", "--encoding.preset=small"),
            ("imagenet_resnet50.py", "--preset=demo", "--name=first", "--training.epochs=2"),
        )
        places = ("--output=/betons/shapes.beton", "--data.beton=/betons/shapes.beton")
        for (job, *arguments), place in zip(jobs, places, strict=True):
            entry = ("python", f"/opt/metaug_ray/jobs/{job}", *arguments, place)
            ray = str(Path(sys.executable).parent / "ray")
            token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self.secrets / "ray_token")}
            ended = self._run(ray, "job", "submit", "--address", _DASHBOARD, "--", *entry, **token)
            if ended.returncode:
                raise FaultError(f"{job} ended with {ended.returncode}; {self.engine.log} has its words")
        return "a submitted job finished, its run on S3 and in MLflow over PostgreSQL"

    def _search(self) -> None:
        secrets = {file.name: file.read_text().strip() for file in self.secrets.iterdir() if len(file.read_text()) < 70}
        for container in self._podman("ps", "--all", "--format={{.Names}}").stdout.split():
            for what in (("logs",), ("inspect",), ("top",)):
                text = self._podman(*what, container).stdout
                shown = [name for name, value in secrets.items() if value in text]
                if shown:
                    raise FaultError(f"`podman {what[0]} {container}` shows {', '.join(shown)}")
