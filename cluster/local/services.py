"""Servers of this machine: started so that they outlive the command, found again by a record, ended with all that
they started, and nothing else.

The record of a server is a file with its process id and when that process began, as ids are given again. What it
started inherits a variable of the environment, by which it is found even where the server itself was killed.
"""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

MARK: Final = "CLUSTER_LOCAL_SERVICE"
"""Variable by which a server's processes know, and are known, whose they are."""

_END_SECONDS: Final = 20.0


class ServiceError(Exception):
    """A server cannot be started; one sentence for the user."""


@dataclass(frozen=True)
class Service:
    """A server, and how to start it."""

    name: str
    folder: Path
    """Of its record and of `logs/`."""
    address: str
    """For the user."""
    command: Callable[[], list[str]]
    """Called when it starts."""
    environment: dict[str, str]
    ready: Callable[[], bool]
    """Whether it answers."""
    withheld: tuple[str, ...] = ()
    """Variables of the user's environment that it does not get."""

    @property
    def log(self) -> Path:
        return self.folder / "logs" / f"{self.name}.log"

    @property
    def _record(self) -> Path:
        return self.folder / f"{self.name}.pid"

    @property
    def _mark(self) -> str:
        return f"{self.folder}:{self.name}"

    def process(self) -> psutil.Process | None:
        """The server's own process, if it runs."""
        try:
            record = json.loads(self._record.read_text())
            process = psutil.Process(record["pid"])
            # By the clock of the machine since it began, a time may be told apart by a tenth of a second.
            same = abs(process.create_time() - record["began"]) < 0.1
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (OSError, ValueError, KeyError, psutil.NoSuchProcess):
            return None

    def start(self) -> None:
        """Begin; :func:`wait_until_ready` says when it answers."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if name not in self.withheld}
        with self.log.open("w") as output:
            started = subprocess.Popen(
                self.command(),
                env=inherited | self.environment | {MARK: self._mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        began = psutil.Process(started.pid).create_time()
        self._record.write_text(json.dumps({"pid": started.pid, "began": began}))

    def stop(self) -> bool:
        """End it and all that it started; whether there was anything to end."""
        leader = self.process()
        # Ray's and MLflow's own processes end their children in order; what is left afterwards is killed.
        if leader is not None:
            leader.terminate()
            with suppress(psutil.TimeoutExpired):
                leader.wait(_END_SECONDS)
        left = self._marked()
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=_END_SECONDS)
        self._record.unlink(missing_ok=True)
        return leader is not None or bool(left)

    def _marked(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.pid != os.getpid() and process.environ().get(MARK) == self._mark:
                    found.append(process)
        return found


def wait_until_ready(services: list[Service], seconds: float) -> None:
    """Say what is waited for until all answer.

    Raises:
        ServiceError: one of them ended, or does not answer in time.
    """
    began = said = time.monotonic()
    waiting = list(services)
    while waiting:
        for service in list(waiting):
            if service.process() is None:
                raise ServiceError(f"{service.name} ended while it started; {_last_words(service)}")
            if service.ready():
                waiting.remove(service)
                print(f"{service.name} answers after {time.monotonic() - began:.0f} s", flush=True)
        now = time.monotonic()
        if waiting and now - began > seconds:
            raise ServiceError(f"{waiting[0].name} does not answer after {seconds:.0f} s; {_last_words(waiting[0])}")
        if waiting and now - said >= 5:
            said = now
            names = " and ".join(service.name for service in waiting)
            print(f"waiting for {names} ({now - began:.0f} s)", flush=True)
        time.sleep(0.2)


def check_answers(services: list[Service]) -> None:
    """Raises `ServiceError` where one that runs does not answer at its address."""
    for service in services:
        if not service.ready():
            raise ServiceError(
                f"{service.name} runs, and does not answer at {service.address}; it was started with another port, or "
                f"hangs ({service.log}): stop, and start again"
            )


def _last_words(service: Service) -> str:
    lines = service.log.read_text(errors="replace").strip().splitlines()[-8:]
    return "\n".join([f"the end of its log, {service.log}:", *(f"    {line}" for line in lines)])


def answers(url: str, headers: dict[str, str] | None = None) -> bool:
    """Whether a server answers a request with success."""
    # No proxy of the environment reaches this machine's loopback.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers or {}), timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def check_port_is_free(port: int, purpose: str, variable: str) -> None:
    """Raises `ServiceError` where something listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServiceError(
                f"port {port}, for {purpose}, cannot be had ({error.strerror}{_holder(port)}); "
                f"end what holds it, or set {variable} to another"
            ) from error


def _holder(port: int) -> str:
    """Which process listens, where this user may know it."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"; process {connection.pid}, {psutil.Process(connection.pid).name()}, holds it"
    return ""


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
