"""A Ray cluster of several nodes on this machine, each of which can be lost: a head without CPUs and nodes of one."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

# Ray's own minute is the same in kind, and longer.
FAST = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "8",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "40",
}


class Cluster:
    """Its head listens at `address`, also after it was lost and came again."""

    def __init__(self, folder: Path, nodes: int) -> None:
        self._folder = folder
        with socket.socket() as reserved:
            reserved.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{reserved.getsockname()[1]}"
        self._starts = 0
        self._head: subprocess.Popen[bytes] | None = None
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self._count = nodes
        self.start()

    def start(self) -> None:
        """The head, then the nodes."""
        self._head = self._ray("--head", f"--port={self.address.rpartition(':')[2]}", "--num-cpus=0")
        self._until(lambda: bool(self.alive()))
        # One after the other: two that start at once on one machine take the same files of their session.
        for _ in range(self._count):
            self.add_node()
            self._until(lambda: len(self.alive()) == 1 + len(self._nodes))

    def add_node(self) -> None:
        name = f"node{self._starts}"
        self._nodes[name] = self._ray(f"--address={self.address}", "--num-cpus=1", f"--node-name={name}")

    def alive(self) -> dict[str, str]:
        """Ids of nodes by their names."""
        try:
            infos: dict[Any, Any] = _gcs(self.address).get_all_node_info(timeout=5)
        except Exception:
            return {}
        return {info.node_name: node.hex() for node, info in infos.items() if info.state == 0}

    def lose_node(self, name: str) -> None:
        """End all that a node is, at once; another one comes."""
        _kill(self._nodes.pop(name))
        self.add_node()

    def drain_node(self, name: str, seconds: float) -> None:
        """Say that a node is taken away soon, as a cloud does of a spot machine, and take it then."""
        deadline = round(1000 * (time.time() + seconds))
        # 2: DRAIN_NODE_REASON_PREEMPTION
        _gcs(self.address).drain_node(self.alive()[name], 2, "chaos", deadline)
        self.add_node()
        time.sleep(seconds)
        _kill(self._nodes.pop(name))

    def lose_head(self) -> None:
        """End the whole cluster, as a head that is lost takes it along, and start another at its address."""
        self.stop()
        self.start()

    def stop(self) -> None:
        for process in (*self._nodes.values(), self._head):
            if process is not None:
                _kill(process)
        self._nodes, self._head = {}, None

    @property
    def names(self) -> list[str]:
        """Of the nodes that have workers."""
        return sorted(self._nodes)

    def _ray(self, *arguments: str) -> "subprocess.Popen[bytes]":
        self._starts += 1
        log = (self._folder / f"ray{self._starts}.log").open("w")
        temp = [f"--temp-dir={self._folder}/t"] if "--head" in arguments else []
        command = [str(Path(sys.executable).with_name("ray")), "start", *arguments, *temp, "--block"]
        extra = ["--include-dashboard=false"] if "--head" in arguments else []
        return subprocess.Popen(
            [*command, *extra, "--disable-usage-stats"], stdout=log, stderr=log, env=os.environ | FAST, cwd=self._folder
        )

    def _until(self, true: Any) -> None:
        end = time.monotonic() + 180
        while not true():
            assert time.monotonic() < end, f"no cluster; see {self._folder}"
            time.sleep(0.5)


def _gcs(address: str) -> Any:
    from ray import _raylet

    return _raylet.GcsClient(address=address)  # type: ignore[attr-defined]


def _kill(process: "subprocess.Popen[bytes]") -> None:
    try:
        below = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        below = []
    for each in (process, *below):
        try:
            each.send_signal(signal.SIGKILL)
        except (psutil.NoSuchProcess, ProcessLookupError):
            continue
    process.wait()
