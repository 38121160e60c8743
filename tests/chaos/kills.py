"""What is killed in a run, and how."""

import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from tests.chaos.cluster import Cluster
from tests.integration.jobs import Job


@dataclass
class Scene:
    """Where something is killed."""

    job: Job
    cluster: Cluster | None
    run: Path
    draws: random.Random


def _below(scene: Scene) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(scene.job.process.pid).children(recursive=True)
    return found


def _named(processes: list[psutil.Process], part: str) -> list[psutil.Process]:
    found = []
    for process in processes:
        try:
            if part in " ".join(process.cmdline()[:2]):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _workers(scene: Scene) -> list[psutil.Process]:
    if scene.cluster is None:
        return _named(_below(scene), "RayTrainWorker")
    trees = [psutil.Process(process.pid) for process in scene.cluster._nodes.values()]
    return _named([each for tree in trees for each in tree.children(recursive=True)], "RayTrainWorker")


def _kill(processes: list[psutil.Process]) -> bool:
    killed = False
    for process in processes:
        try:
            process.kill()
            killed = True
        except psutil.NoSuchProcess:
            continue
    return killed


def worker(scene: Scene) -> bool:
    workers = _workers(scene)
    return _kill([scene.draws.choice(workers)] if workers else [])


def workers(scene: Scene) -> bool:
    return _kill(_workers(scene))


def driver(scene: Scene) -> bool:
    """And with it Ray Train's controller, which is in it."""
    return _kill(psutil.Process(scene.job.process.pid).children()[:1])


def command(scene: Scene) -> bool:
    """The driver's parent: nothing on this machine goes on, and the command is given again."""
    scene.job.process.kill()
    return True


def sigterm(scene: Scene) -> bool:
    scene.job.process.send_signal(signal.SIGTERM)
    return True


def gcs(scene: Scene) -> bool:
    return _kill(_named(_below(scene), "gcs_server"))


def raylet(scene: Scene) -> bool:
    return _kill(_named(_below(scene), "/raylet"))


def amid_checkpoint(scene: Scene) -> bool:
    """A worker, while a checkpoint is copied to the storage."""
    end = time.monotonic() + 20
    whole = {path.name for path in scene.run.glob("checkpoint_*")}
    while time.monotonic() < end and scene.job.process.poll() is None:
        if {path.name for path in scene.run.glob("checkpoint_*")} - whole:
            return worker(scene)
        time.sleep(0.002)
    return False


def node(scene: Scene) -> bool:
    assert scene.cluster is not None
    scene.cluster.lose_node(scene.draws.choice(scene.cluster.names))
    return True


def drained_node(scene: Scene) -> bool:
    assert scene.cluster is not None
    scene.cluster.drain_node(scene.draws.choice(scene.cluster.names), 8)
    return True


def head(scene: Scene) -> bool:
    assert scene.cluster is not None
    scene.cluster.lose_head()
    return True


Kill = Callable[[Scene], bool]
"""Gives whether there was something to kill."""

ANYWHERE: Final[tuple[Kill, ...]] = (worker, workers, driver, command, sigterm, amid_checkpoint)
LOCAL: Final[tuple[Kill, ...]] = (*ANYWHERE, gcs, raylet)
ON_A_CLUSTER: Final[tuple[Kill, ...]] = (worker, driver, command, amid_checkpoint, node, node, drained_node, head)
GIVEN_AGAIN: Final[tuple[Kill, ...]] = (command, sigterm)
"""After which the command is given again by hand."""
