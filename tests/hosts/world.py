"""A cluster of three hosts, services on a fourth, and a run of the main job across them."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import yaml

from metaug_ray.runtime.run_folder import RunFolder
from tests.hosts.services import Services
from tests.integration.jobs import JOBS
from tests.namespaces import Host
from tests.training.small import small_settings

_TOKEN = "of-the-hosts"
EPOCHS, BATCH, IMAGES = 20, 12, 96


def epochs_of(name: str) -> int:
    """Of a scenario's run: an elastic one is long enough for a host to come back."""
    return 3 * EPOCHS if name.startswith("elastic") else EPOCHS


def steps_of(name: str) -> int:
    """Of a scenario's run."""
    return epochs_of(name) * (IMAGES // BATCH)


def logged_step(line: str) -> int | None:
    """The step that a line is of; None for other lines."""
    found = re.search(r"step ([\d,]+) .*images/s", line)
    return None if found is None else int(found[1].replace(",", ""))


class Run:
    """The main job, begun on the first host; its lines with the times at which they came."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[tuple[float, str]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def step(self, since: float = 0.0) -> int:
        """The last step that was logged since a time; 0 for none."""
        for when, line in reversed(self.lines):
            if when < since:
                break
            if (step := logged_step(line)) is not None:
                return step
        return 0

    def wait(self, true: Callable[[], bool], what: str, seconds: float = 600) -> None:
        """Raises `AssertionError` where it does not come true in time, or the command is over before."""
        end = time.monotonic() + seconds
        while not true():
            assert self.process.poll() is None, f"{what}: the command ended: {self.lines[-3:]}"
            assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s: {self.lines[-2:]}"
            time.sleep(0.05)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip()))


class World:
    """Hosts, their Ray nodes, and what they share."""

    def __init__(self, folder: Path, hosts: list[Host], services: Services, shared: Path, beton: Path) -> None:
        self.folder, self.services, self.shared, self.beton = folder, services, shared, beton
        self.hosts = hosts
        token = folder / "token"
        token.write_text(_TOKEN)
        token.chmod(0o600)
        self._environment = {
            "HOME": str(folder / "home"),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
            "RAY_ADDRESS": f"{hosts[0].address}:6379",
            "MLFLOW_TRACKING_USERNAME": "admin",
            "MLFLOW_TRACKING_PASSWORD": services.password,
        }
        (folder / "home").mkdir(exist_ok=True)
        for host in hosts:
            self.start_ray(host)

    def wait_for_nodes(self) -> None:
        """Until all hosts are part of the cluster."""
        code = (
            f"from ray._raylet import GcsClient; nodes = GcsClient(address='{self.hosts[0].address}:6379')"
            ".get_all_node_info(timeout=5); print(sum(node.state == 0 for node in nodes.values()))"
        )
        end = time.monotonic() + 180
        while True:
            asked = self.hosts[0].start(sys.executable, "-c", code, log=subprocess.PIPE, environment=self._environment)
            if asked.communicate()[0].split()[-1:] == [str(len(self.hosts))]:
                return
            if time.monotonic() > end:
                raise OSError(f"not all hosts became nodes of the cluster; see {self.folder}")
            time.sleep(1)

    def start_ray(self, host: Host) -> None:
        """Ray's processes of a host: of the first one the head."""
        common = ["--num-cpus=1", f"--node-ip-address={host.address}", "--block", "--disable-usage-stats"]
        if host is self.hosts[0]:
            special = ["--head", "--port=6379", "--include-dashboard=false"]
        else:
            special = [f"--address={self.hosts[0].address}:6379"]
        ray = str(Path(sys.executable).with_name("ray"))
        log = (host.folder / "ray.log").open("a")
        # Where the head is not there yet, `ray start` gives up.
        again = f"until {ray} start {' '.join([*special, *common])}; do sleep 2; done"
        host.start("sh", "-c", again, log=log, environment=self._environment)

    def run(self, name: str) -> Run:
        """Begin it, on the first host. An elastic one has batch norm over all workers: its learning does not depend on
        their number."""
        elastic = name.startswith("elastic")
        settings = small_settings(
            self.beton,
            name=name,
            training={"epochs": epochs_of(name), "batch_size": BATCH, "sync_batch_norm": elastic},
            storage=str(self.shared),
            checkpoint={"every_steps": 20, "keep": 1},
            compute={
                "workers": 3,
                "min_workers": 1 if elastic else None,
                "max_driver_restarts": 10,
                "max_failures": 100,
            },
            tracking={"uri": self.services.uri},
        )
        config = self.folder / f"{name}.yaml"
        config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
        command = [sys.executable, "-u", str(JOBS / "imagenet_resnet50.py"), "--config", str(config)]
        environment = self._environment | {"PYTHONPATH": os.environ.get("PYTHONPATH", str(JOBS.parent))}
        return Run(self.hosts[0].start(*command, log=subprocess.PIPE, environment=environment))

    def last_checkpoint(self, name: str) -> Path:
        return self.shared / name / RunFolder(str(self.shared), name).checkpoints()[-1]
