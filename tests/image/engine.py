"""buildah and podman with a store and settings of their own: this machine's other images are not touched."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.image.report import FaultError

PROGRAMS: Final = ("buildah", "debootstrap", "podman", "runc")
HARDENED: Final = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--tmpfs=/tmp:mode=1777",
    "--volume=/home/metaug",
    "--shm-size=8g",
)
"""As cluster/kuberay and Compose run the image: what may be written are the home and /tmp."""


def missing_programs() -> list[str]:
    """Programs that this machine lacks; Debian's packages have their names."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


class Engine:
    """Images and containers below one folder.

    Args:
        store: folder, made if it is not there.
        log: file that takes what the programs print.
    """

    def __init__(self, store: Path, log: Path) -> None:
        self.store, self.log = store, log
        for name in ("home", "tmp"):
            (store / name).mkdir(parents=True, exist_ok=True)
        configuration = store / "containers.conf"
        # podman's own limits of files and processes are higher than some machines let root set.
        configuration.write_text(
            "[containers]\ndefault_ulimits = []\n"
            '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
            '[network]\nnetwork_backend = "netavark"\n'
        )
        self.environment = os.environ | {
            "BUILDAH_ISOLATION": os.environ.get("BUILDAH_ISOLATION", "chroot"),
            "CONTAINERS_CONF": str(configuration),
            "HOME": str(store / "home"),
            "TMPDIR": str(store / "tmp"),
        }

    @property
    def places(self) -> list[str]:
        """Options of both programs: where they keep their things."""
        return [f"--root={self.store}/root", f"--runroot={self.store}/runroot"]

    def buildah(self, *arguments: str) -> str:
        """Runs buildah; what it printed to its output.

        Raises:
            FaultError: it failed.
        """
        return self._logged(["buildah", *self.places, *arguments])

    def podman(self, *arguments: str) -> str:
        """Runs podman, as `buildah` does."""
        return self._logged(["podman", *self.places, *arguments])

    def inspect(self, image: str) -> Any:
        """What podman knows of an image."""
        return json.loads(self.podman("image", "inspect", image))[0]

    def run(
        self, image: str, command: Sequence[str], *options: str, network: str = "none", limit: float = 1800
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in a container of its own, hardened, as the image's user; output and errors come together."""
        arguments = ["run", "--rm", "--init", "--no-healthcheck", f"--network={network}", *HARDENED, *options]
        ended = subprocess.run(
            ["podman", *self.places, *arguments, image, *command],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=limit,
        )
        self._write(f"$ {' '.join(command)}\n{ended.stdout}\n-> {ended.returncode}\n")
        return ended

    @contextmanager
    def mounted(self, image: str) -> Iterator[Path]:
        """An image's root file system, to be looked at."""
        yield Path(self.podman("image", "mount", image).strip())
        self.podman("image", "unmount", image)

    def _logged(self, command: list[str]) -> str:
        self._write(f"$ {' '.join(command)}\n")
        with self.log.open("a", encoding="utf-8") as log:
            ended = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, stderr=log, text=True)
        self._write(ended.stdout)
        if ended.returncode:
            raise FaultError(f"{command[0]} {command[3]} ended with {ended.returncode}; {self.log} has its words")
        return ended.stdout

    def _write(self, text: str) -> None:
        with self.log.open("a", encoding="utf-8") as log:
            log.write(text)
