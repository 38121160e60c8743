"""A Slurm that is thrown away: a controller and nodes on this machine, each node a host of its own.

A node has a network namespace with an address, a host name, a `/tmp`, and a slurmd. All that is begun is below one
folder, and ends with :func:`slurm`.
"""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.namespaces import PATH, hosts

PROGRAMS: Final = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "ip", "nsenter", "unshare")
_NETWORK: Final = "10.88.0"
_CPUS: Final = 2

_CONFIGURATION: Final = """\
ClusterName=metaug
SlurmctldHost={host}({network}.254)
SlurmctldPort=17817
SlurmdPort=17818
SlurmUser=root
AuthType=auth/munge
# A job that is queued again waits as long as a credential is valid; two minutes by default.
AuthInfo=socket={folder}/munge/socket,cred_expire=10
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
AccountingStorageType=accounting_storage/none
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/%n/spool
SlurmdPidFile={folder}/%n/slurmd.pid
SlurmdLogFile={folder}/%n/slurmd.log
SchedulerParameters=bf_interval=2,sched_interval=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=120 MaxTime=INFINITE
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE
"""


class MissingError(Exception):
    """This machine cannot run a Slurm of its own."""


@dataclass(frozen=True)
class Slurm:
    """One that runs."""

    folder: Path
    nodes: tuple[str, ...]

    def call(self, *command: str, environment: dict[str, str] | None = None, cwd: Path | None = None) -> str:
        """What a command of Slurm's prints."""
        variables = os.environ | {"PATH": PATH, "SLURM_CONF": str(self.folder / "slurm.conf")} | (environment or {})
        done = subprocess.run(command, env=variables, cwd=cwd, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def node_states(self) -> dict[str, str]:
        return dict(line.split() for line in self.call("sinfo", "-h", "-N", "-p", "low", "-o", "%N %T").splitlines())


def check_machine() -> None:
    """Raises `MissingError` where this machine has not what it takes."""
    if missing := [program for program in PROGRAMS if shutil.which(program, path=PATH) is None]:
        raise MissingError(f"{', '.join(missing)} are missing; apt-get install slurm-wlm munge iproute2 installs them")
    if os.geteuid():
        raise MissingError("only root makes nodes with addresses of their own; run it as root")


@contextmanager
def slurm(folder: Path, count: int) -> Iterator[Slurm]:
    """A Slurm whose nodes are idle; all its processes and networks are gone afterwards.

    Args:
        folder: empty, and not below `/tmp`, of which each node has its own.
        count: of nodes, each with two CPUs, whatever the machine has.

    Raises:
        MissingError: this machine cannot run one.
    """
    check_machine()
    nodes = tuple(f"node{number}" for number in range(1, count + 1))
    lines = [f"NodeName={n} NodeAddr={_NETWORK}.{i} CPUs={_CPUS} State=UNKNOWN" for i, n in enumerate(nodes, 1)]
    for part in ("munge", "state", *(f"{node}/spool" for node in nodes)):
        (folder / part).mkdir(parents=True)
    (folder / "slurm.conf").write_text(
        _CONFIGURATION.format(folder=folder, host=socket.gethostname(), network=_NETWORK, nodes="\n".join(lines))
    )
    made = Slurm(folder, nodes)
    with ExitStack() as stack:
        _munge(stack, folder)
        try:
            there = stack.enter_context(hosts(folder, nodes, _NETWORK, gateway=True))
        except OSError as error:
            raise MissingError(str(error)) from error
        _daemon(stack, folder, "slurmctld", "slurmctld", "-D")
        for host in there:
            _daemon(stack, folder, host.name, *host.command("slurmd", "-D", "-N", host.name))
        _wait_until_idle(made)
        yield made


def _munge(stack: ExitStack, folder: Path) -> None:
    place = folder / "munge"
    (place / "key").write_bytes(os.urandom(128))
    (place / "key").chmod(0o400)
    # munged wants all to reach its socket.
    folder.chmod(0o755)
    files = [f"--{name}-file={place}/{name}" for name in ("key", "pid", "log", "seed")]
    _daemon(stack, folder, "munged", "munged", "--foreground", f"--socket={place}/socket", *files)
    _wait(lambda: (place / "socket").exists(), "munged did not start", folder / "munged.out")


def _daemon(stack: ExitStack, folder: Path, name: str, *command: str) -> None:
    """A process that ends with the stack; its output is `name`.out."""
    with (folder / f"{name}.out").open("w") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | {"PATH": PATH, "SLURM_CONF": str(folder / "slurm.conf")},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def end() -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)


def _wait_until_idle(made: Slurm) -> None:
    def idle() -> bool:
        with suppress(RuntimeError):
            return set(made.node_states().values()) == {"idle"}
        return False

    _wait(idle, "Slurm's nodes did not become idle", made.folder / "slurmctld.log")


def _wait(true: Callable[[], bool], otherwise: str, log: Path) -> None:
    end = time.monotonic() + 60
    while not true():
        if time.monotonic() > end:
            raise MissingError(f"{otherwise}:\n{log.read_text()[-2000:] if log.exists() else ''}")
        time.sleep(0.3)
