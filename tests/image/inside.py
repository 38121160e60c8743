"""What users do with the image, done in it: as its user, without rights, on a root file system that is read-only."""

import re
import secrets
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.image.context import ROOT
from tests.image.engine import HARDENED, Engine
from tests.image.report import FaultError

JOB: Final = ("python", "jobs/imagenet_resnet50.py")
WRITABLE: Final = re.compile(r"/(home/metaug|tmp|var/tmp|run/lock)(/|$)")
_NOT_INSIDE: Final = ("tests/cluster", "tests/docs", "tests/gpu", "tests/image", "tests/studies")
"""Tests of files of the repository that are no part of the image, and of GPUs."""

_NEEDS_GIT: Final = "tests/tracking/test_runs.py::test_one_run_across_restarts"
"""A run in an image knows no commit."""


class Inside:
    """The image in use.

    Args:
        engine: where it is.
        image: its name.
    """

    def __init__(self, engine: Engine, image: str) -> None:
        self.engine, self.image = engine, image
        self.data = engine.store / "data"
        self.data.mkdir(exist_ok=True)
        self.data.chmod(0o777)
        token = engine.store / "ray_token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o444)
        self._token = (
            f"--volume={token}:/run/secrets/ray_token:ro",
            "--env=RAY_AUTH_TOKEN_PATH=/run/secrets/ray_token",
        )

    def user(self) -> str:
        """It is not root, and may write nowhere but where anybody may."""
        script = "id --user; find / -xdev -writable -not -type l -not -path '/proc/*' 2>/dev/null || true"
        number, *writable = self._run("bash", "-c", script, options=("--read-only=false",)).splitlines()
        others = [path for path in writable if not WRITABLE.match(path)]
        if number == "0" or others:
            raise FaultError(f"user {number} may write {', '.join(others[:5])}")
        return f"user {number}, which owns and may write nothing but its home and folders for temporary files"

    def help(self) -> str:
        """The command that a container runs by itself."""
        text = self._run()
        if not text.startswith("usage: imagenet_resnet50.py"):
            raise FaultError(f"the image's own command printed {text[:80]!r}")
        return f"{len(text.splitlines())} lines of options"

    def libraries(self) -> str:
        """OpenCV and FFCV find the system's libraries."""
        self._run("python", "-c", "import cv2, ffcv, mlflow, psycopg2, ray, torch, torchvision, boto3")
        return "cv2, ffcv, torch, ray, mlflow, psycopg2 and boto3 can be imported"

    def demo(self) -> str:
        """`make demo`'s two commands, small; the job once more finds its run finished."""
        shapes = ("--source.kind", "shapes", "--source.count", "512", "--encoding.preset", "small")
        self._run("python", "jobs/prepare_data.py", *shapes, "--output", "/data/shapes.beton", options=self._mounts)
        first = self._train()
        if first.returncode:
            raise FaultError(f"the job ended with {first.returncode}: {first.stdout.strip().splitlines()[-1]}")
        again = self._train()
        if again.returncode or "finished" not in again.stdout:
            raise FaultError(f"the same command again ended with {again.returncode}: {again.stdout.splitlines()[-1]}")
        return next(line for line in first.stdout.splitlines() if "is finished after" in line)

    def no_token(self) -> str:
        """Ray starts nothing without a token."""
        ended = self.engine.run(self.image, ("ray", "start", "--head", "--num-cpus=0"))
        if ended.returncode == 0 or "no authentication token was found" not in ended.stdout:
            raise FaultError(f"without a token `ray start` ended with {ended.returncode}")
        return f"`ray start` ends with exit status {ended.returncode}"

    def tests(self) -> str:
        """The quick tests that need nothing but the image and pytest."""
        packages = self._packages_of_tests()
        options = (
            f"--volume={ROOT / 'tests'}:/opt/metaug_ray/tests:ro",
            f"--volume={packages}:/opt/dev:ro",
            "--env=PYTHONPATH=/opt/dev",
        )
        chosen = ("-m", "not slow", f"--deselect={_NEEDS_GIT}", *(f"--ignore={folder}" for folder in _NOT_INSIDE))
        pytest = ("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadscope", "tests")
        ended = self.engine.run(self.image, (*pytest, *chosen), *options)
        last = ended.stdout.strip().splitlines()[-1].strip("= ")
        if ended.returncode:
            raise FaultError(f"pytest ended with {ended.returncode}: {last}; {self.engine.log} has all of it")
        return last

    def health(self) -> str:
        """The image's health check is content with a head of Ray, and not with a container that runs something else."""
        head = ("ray", "start", "--head", "--block", "--num-cpus=0", "--object-store-memory=100000000")
        began = time.monotonic()
        for name, command, healthy in (("head", head, True), ("other", ("sleep", "600"), False)):
            options = ("--detach", f"--name=metaug-{name}", "--network=none", *HARDENED, *self._token)
            self.engine.podman("run", *options, self.image, *command)
            try:
                seconds = self._wait_until_healthy(f"metaug-{name}", 90 if healthy else 5)
            finally:
                self.engine.podman("rm", "--force", "--time=5", f"metaug-{name}")
            if (seconds is not None) != healthy:
                raise FaultError(f"of {' '.join(command)} it says {'healthy' if seconds else 'unhealthy'}")
            began = began if seconds is None else seconds
        return f"a head is healthy after {began:.0f} s; a container without Ray is not"

    def _wait_until_healthy(self, container: str, limit: float) -> float | None:
        began = time.monotonic()
        while time.monotonic() - began < limit:
            try:
                self.engine.podman("healthcheck", "run", container)
            except FaultError:
                time.sleep(1)
            else:
                return time.monotonic() - began
        return None

    @property
    def _mounts(self) -> tuple[str, ...]:
        return f"--volume={self.data}:/data", "--env=MLFLOW_TRACKING_URI=sqlite:////data/mlflow.db"

    def _train(self) -> subprocess.CompletedProcess[str]:
        command = (*JOB, "--preset=demo", "--storage=/data/runs", "--data.beton=/data/shapes.beton")
        options = (*self._mounts, "--env=RAY_ADDRESS=local", "--env=METAUG_TRAINING__EPOCHS=2")
        return self.engine.run(self.image, command, *options, *self._token)

    def _run(self, *command: str, options: tuple[str, ...] = ()) -> str:
        ended = self.engine.run(self.image, command, *options)
        if ended.returncode:
            last = (ended.stdout.strip().splitlines() or ["nothing was said"])[-1]
            raise FaultError(f"{' '.join(command[:3])} ended with {ended.returncode}: {last}")
        return ended.stdout

    def _packages_of_tests(self) -> Path:
        """What tests need besides the image: the lock file's group `dev`, less what the image has."""
        listed = self._run(
            "python", "-c", "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
        )
        there = {_plain(name) for name in listed.split()}
        export = ("export", "--frozen", "--only-group=dev", "--no-hashes", "--no-annotate", "--no-header")
        wanted = subprocess.run(["uv", *export], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        lines = [line for line in wanted.splitlines() if _plain(line.split("==")[0]) not in there]
        folder = self.engine.store / "dev"
        (self.engine.store / "dev.txt").write_text("\n".join(lines))
        install = ("pip", "install", "-q", "--no-deps", "--python", sys.executable, "--target", str(folder))
        subprocess.run(["uv", *install, "-r", str(self.engine.store / "dev.txt")], cwd=ROOT, check=True)
        return folder


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
