"""Hosts on this machine: network namespaces on one bridge, each with an address, a name and a `/tmp`."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

PATH: Final = f"{os.environ['PATH']}:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Host:
    """One of them."""

    name: str
    address: str
    link: str
    """Its namespace, and the bridge's end of its cable."""
    folder: Path

    def start(
        self, *command: str, log: IO[str] | int, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """A process on this host."""
        return subprocess.Popen(
            self.command(*command),
            env=os.environ | {"PATH": PATH} | dict(environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def command(self, *command: str) -> list[str]:
        """What to call for a command to run on this host."""
        there = f"hostname {self.name}; mount --bind {self.folder.parent}/hosts /etc/hosts; "
        there += f'mount --bind {self.folder}/tmp /tmp; exec "$@"'
        inside = ["nsenter", f"--net=/run/netns/{self.link}", "unshare", "--uts", "--mount", "sh", "-c", there, "sh"]
        return [*inside, *command]

    def cut(self) -> None:
        """Pull its cable."""
        _ip("link", "set", self.link, "down")

    def mend(self) -> None:
        """Put it back."""
        _ip("link", "set", self.link, "up")

    def kill_all(self, but: str = "\0") -> None:
        """End all processes of the host at once, but those that have a text among their arguments."""
        self._kill(lambda arguments: but not in arguments)

    def kill_all_named(self, *texts: str) -> None:
        """End those that have one of the texts among their arguments."""
        self._kill(lambda arguments: any(text in arguments for text in texts))

    def _kill(self, chosen: Callable[[str], bool]) -> None:
        for _ in range(20):
            pids = [int(pid) for pid in _ip("netns", "pids", self.link).split()]
            left = [pid for pid in pids if chosen(_arguments(pid))]
            if not left:
                return
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)


@contextmanager
def hosts(folder: Path, names: Sequence[str], network: str, *, gateway: bool = False) -> Iterator[list[Host]]:
    """Hosts that are there until the end, with whatever runs on them. Only root makes them.

    Args:
        folder: where each has a folder of its own.
        names: of the hosts.
        network: first three numbers of their addresses, which end in 1, 2 and so on.
        gateway: whether this machine is in the network too, at 254.

    Raises:
        OSError: this machine cannot.
    """
    bridge = f"mh{os.getpid()}"
    made = [Host(name, f"{network}.{n}", f"{bridge}-{n}", folder / name) for n, name in enumerate(names, 1)]
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(f"{host.address} {host.name}\n" for host in made))
    with ExitStack() as stack:
        if gateway and f" {network}." in _ip("-o", "-4", "address"):
            raise OSError(f"this machine has addresses {network}.x already, perhaps of another of these commands")
        _ip("link", "add", bridge, "type", "bridge")
        stack.callback(_ip, "link", "del", bridge)
        if gateway:
            _ip("addr", "add", f"{network}.254/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for host in made:
            (host.folder / "tmp").mkdir(parents=True, exist_ok=True)
            _ip("netns", "add", host.link)
            stack.callback(_ip, "netns", "del", host.link)
            _ip("link", "add", host.link, "type", "veth", "peer", "name", "eth0", "netns", host.link)
            _ip("link", "set", host.link, "master", bridge, "up")
            _ip("-n", host.link, "addr", "add", f"{host.address}/24", "dev", "eth0")
            for device in ("eth0", "lo"):
                _ip("-n", host.link, "link", "set", device, "up")
            # Before the namespace goes: what was begun there may be nobody's child here.
            stack.callback(host.kill_all)
        yield made


def _arguments(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    return ""


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], env=os.environ | {"PATH": PATH}, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}; containers may not make networks")
    return done.stdout
