"""Jobs as a user starts them: processes whose output is read line by line while they run."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml

from metaug_ray.config import PretrainSettings

JOBS = Path(__file__).resolve().parents[2] / "jobs"
_LIMIT = 400.0


def train_job(settings: PretrainSettings, folder: Path, *arguments: str, environment: dict[str, str]) -> "Job":
    """A running `jobs/imagenet_resnet50.py`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / f"{settings.name}.yaml"
    config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    return Job("imagenet_resnet50.py", folder, "--config", str(config), *arguments, environment=environment)


class Job:
    """A running job, in a folder."""

    def __init__(self, script: str, folder: Path, *arguments: str, environment: dict[str, str]) -> None:
        self.lines: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, str(JOBS / script), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | environment,
            cwd=folder,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def step(self) -> int:
        """The last step that was logged."""
        steps = [int(found[1].replace(",", "")) for line in self.lines if (found := re.search(r"step ([\d,]+) ", line))]
        return steps[-1] if steps else 0

    def wait_for(self, text: str) -> None:
        self.wait_until(lambda: text in self.output)

    def wait_until(self, true: Callable[[], bool], pause: float = 0.05) -> None:
        end = time.monotonic() + _LIMIT
        while not true():
            assert self.process.poll() is None, self.output
            assert time.monotonic() < end, self.output
            time.sleep(pause)

    def finish(self) -> int:
        """Wait for the end; the exit status."""
        status = self.process.wait(_LIMIT)
        self._reader.join(10)
        return status

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip())


def workers_of(session: Path) -> list[psutil.Process]:
    """Ray Train's workers of a Ray session, and no one else's on this machine."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any("RayTrainWorker" in part for part in process.info["cmdline"] or []):
            try:
                # The raylet's arguments name its session's files.
                raylet = process.parent()
                if raylet is not None and any(session.name in part for part in raylet.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
    return found


def logged_losses(run: Path) -> dict[int, float]:
    """Loss by step, from the run's journal."""
    records = [json.loads(line) for line in (run / "tracking" / "journal.jsonl").read_text().splitlines()]
    return {
        record["step"]: record["values"]["loss/total"]
        for record in records
        if record["kind"] == "metrics" and "loss/total" in record["values"]
    }
