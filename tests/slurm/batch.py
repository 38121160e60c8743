"""Jobs of `cluster/slurm/job.sh`, as a user gives them and looks at them."""

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import psutil

from tests.slurm.machine import Slurm

ROOT: Final = Path(__file__).resolve().parents[2]
_LIMIT: Final = 900.0


class UnexpectedError(Exception):
    """Slurm, the script or the run did something else than expected; with what was seen."""


@dataclass
class Batch:
    """A job, from `sbatch` on."""

    slurm: Slurm
    number: str
    log: Path
    began: float = field(default_factory=time.monotonic)

    @property
    def output(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def shown(self) -> dict[str, str]:
        """What `scontrol show job` says, by its names."""
        text = self.slurm.call("scontrol", "--oneliner", "show", "job", self.number)
        return dict(re.findall(r"(\w+)=(\S*)", text))

    def end(self) -> str:
        """State, exit status and restarts, by Slurm's names."""
        shown = self.shown()
        return " ".join(f"{name}={shown[name]}" for name in ("JobState", "ExitCode", "Restarts"))

    def wait_for(self, text: str, after: int = 0) -> float:
        """Until the log has a text beyond a position; the seconds that it took."""
        return self.wait_until(lambda: text in self.output[after:], f"no {text!r}")

    def wait_for_state(self, *states: str) -> float:
        return self.wait_until(
            lambda: self.shown()["JobState"] in states, f"none of {', '.join(states)}", ending=states
        )

    def wait_until(
        self, true: Callable[[], bool], otherwise: str, ending: tuple[str, ...] = (), limit: float = _LIMIT
    ) -> float:
        began = time.monotonic()
        while not true():
            state = self.shown()["JobState"]
            ended = state in {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"} and state not in ending
            # What was said with a job's last breath may come a moment after its state.
            if (ended and not true()) or time.monotonic() - began > limit:
                raise UnexpectedError(f"job {self.number}: {otherwise}; {self.end()}:\n{self.output[-1500:]}")
            time.sleep(0.3)
        return time.monotonic() - began


@dataclass(frozen=True)
class User:
    """Who submits: a home and a log folder on the file system that all nodes share."""

    slurm: Slurm
    folder: Path

    @property
    def runs(self) -> Path:
        return self.folder / "metaug_ray" / "runs"

    def submit(self, options: list[str], command: list[str], **variables: str) -> Batch:
        """`sbatch` of job.sh."""
        return self._sbatch([*options, "cluster/slurm/job.sh", *command], variables)

    def take_all_nodes(self, seconds: int) -> Batch:
        """A job of the partition that goes first."""
        wanted = ["--partition=high", f"--nodes={len(self.slurm.nodes)}", "--exclusive"]
        return self._sbatch([*wanted, f"--wrap=sleep {seconds}"], {})

    def _sbatch(self, arguments: list[str], variables: dict[str, str]) -> Batch:
        environment = {
            "HOME": str(self.folder),
            "PYTHONPATH": str(ROOT),
            "CLUSTER_ENVIRONMENT": sys.prefix,
            # Reports wait for Ray Train's controller to look, every two seconds by default.
            "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
            # Ray's workers would be the last to get what other work leaves of this machine.
            "RAY_worker_niceness": "0",
        }
        call = ["sbatch", "--parsable", f"--output={self.slurm.folder}/job-%j.log", "--open-mode=append", *arguments]
        number = self.slurm.call(*call, environment=environment | variables, cwd=ROOT)
        return Batch(self.slurm, number, self.slurm.folder / f"job-{number}.log")


def left_on_nodes(slurm: Slurm) -> list[str]:
    """Programs that run on the nodes besides Slurm's own, and files of Ray on their disks."""
    host = Path("/proc/self/ns/net").readlink()
    found = []
    for process in psutil.process_iter(["name", "environ"]):
        try:
            elsewhere = Path(f"/proc/{process.pid}/ns/net").readlink() != host
        except OSError:
            continue
        ours = (process.info["environ"] or {}).get("SLURM_CONF") == str(slurm.folder / "slurm.conf")
        if elsewhere and ours and not process.info["name"].startswith("slurm"):
            found.append(process.info["name"])
    return found + [str(folder) for node in slurm.nodes for folder in (slurm.folder / node / "tmp").glob("ray-*")]
