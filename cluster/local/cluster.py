"""A Ray cluster and an MLflow server on this machine's loopback: cluster.py start, cluster.py stop, cluster.py status.

Settings are variables of the environment; cluster/local/README.md lists them.
"""

import argparse
import os
import secrets
import shlex
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout
from services import Service, ServiceError, answers, check_answers, check_port_is_free, free_port, wait_until_ready
from settings import HOST, Settings, read_settings

ROOT: Final = Path(__file__).resolve().parents[2]
BIN: Final = Path(sys.executable).parent


def start(settings: Settings) -> None:
    """Start what does not run, and wait for it.

    Raises:
        ServiceError: it does not come up; what this call started is ended again.
    """
    missing = [service for service in services(settings) if service.process() is None]
    if not missing:
        check_answers(services(settings))
        print(f"The cluster runs already.\n\n{what_next(settings)}")
        return
    for service in missing:
        service.stop()
    names = {service.name for service in missing}
    for name, port, variable in (
        ("ray", settings.ray_port, "CLUSTER_RAY_PORT"),
        ("ray", settings.dashboard_port, "CLUSTER_DASHBOARD_PORT"),
        ("mlflow", settings.mlflow_port, "CLUSTER_MLFLOW_PORT"),
    ):
        if name in names:
            check_port_is_free(port, name, variable)
    _draw_token(settings.token)
    print(f"starting {' and '.join(sorted(names))}; logs are in {settings.folder / 'logs'}", flush=True)
    try:
        if "ray" in names:
            _make_session(settings)
        for service in missing:
            service.start()
        wait_until_ready(missing, settings.seconds)
    except BaseException:
        for service in missing:
            service.stop()
        if "ray" in names:
            _keep_session_logs(settings)
        raise
    print(f"\n{what_next(settings)}")


def stop(settings: Settings) -> None:
    """End what :func:`start` started, and nothing else."""
    ended = [service.name for service in reversed(services(settings)) if service.stop()]
    _keep_session_logs(settings)
    if ended:
        print(f"{' and '.join(ended)} ended; data and logs stay in {settings.folder}")
    else:
        print(f"Nothing runs that was started with {settings.folder}.")


def status(settings: Settings) -> int:
    """Say what runs; 0 if all does."""
    there = services(settings)
    for service in there:
        runs = service.process() is not None
        how = "answers" if runs and service.ready() else "does not answer" if runs else "ended"
        print(f"{service.name}: {how}{f', {service.address}' if runs else ''}")
    return int(not all(service.process() is not None and service.ready() for service in there))


def services(settings: Settings) -> list[Service]:
    """MLflow and Ray's head, in the order in which they start."""
    shared = {"PATH": f"{BIN}:{os.environ.get('PATH', os.defpath)}"}
    mlflow = Service(
        name="mlflow",
        folder=settings.folder,
        address=settings.mlflow,
        command=lambda: _mlflow_command(settings),
        environment=shared
        | {
            "MLFLOW_BACKEND_STORE_URI": settings.database,
            "MLFLOW_ARTIFACTS_DESTINATION": settings.artifacts,
            # What it would do besides, in seven more processes, nobody here uses.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        },
        ready=lambda: answers(f"{settings.mlflow}/health"),
    )
    ray = Service(
        name="ray",
        folder=settings.folder,
        address=settings.dashboard,
        command=lambda: _ray_command(settings),
        # Jobs inherit the head's environment, and so find MLflow.
        environment=shared
        | _token_variables(settings)
        # A node that is told to end would wait for its jobs, half a minute long.
        | {"MLFLOW_TRACKING_URI": settings.mlflow, "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"},
        ready=lambda: answers(
            f"{settings.dashboard}/api/version", {"Authorization": f"Bearer {settings.token.read_text().strip()}"}
        ),
        # A token would be stronger than the file, jobs would look for another cluster, and the database is MLflow's.
        withheld=("RAY_AUTH_TOKEN", "RAY_ADDRESS", "PGPASSWORD"),
    )
    return [mlflow, ray]


def _mlflow_command(settings: Settings) -> list[str]:
    # Database and artifacts come by the environment.
    return [str(BIN / "mlflow"), "server", f"--host={HOST}", f"--port={settings.mlflow_port}", "--workers=1"]


def _ray_command(settings: Settings) -> list[str]:
    return [
        str(BIN / "ray"), "start", "--head", "--block", "--disable-usage-stats",
        f"--dashboard-host={HOST}",
        f"--port={settings.ray_port}", f"--dashboard-port={settings.dashboard_port}",
        # Of its own and of the kernel's choice: another cluster of this machine may have Ray's usual ones.
        f"--ray-client-server-port={free_port()}", f"--dashboard-agent-listen-port={free_port()}",
        "--min-worker-port=0", "--max-worker-port=0",
        f"--temp-dir={settings.session.readlink()}",
    ]  # fmt: skip


def _token_variables(settings: Settings) -> dict[str, str]:
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(settings.token)}


def _draw_token(file: Path) -> None:
    """A token that only this user can read; one that is there stays."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.parent.chmod(0o700)
    if not file.exists():
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as output:
            output.write(secrets.token_hex(32))
    file.chmod(0o600)


def _make_session(settings: Settings) -> None:
    """Ray's own folder: on the local disk and with a short name, as a socket's path has at most 107 characters. A link
    leads there."""
    _keep_session_logs(settings)
    settings.session.symlink_to(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))


def _keep_session_logs(settings: Settings) -> None:
    """Of a session that has ended the logs stay, those of its jobs among them."""
    if not settings.session.is_symlink():
        return
    folder = settings.session.readlink()
    logs = settings.folder / "logs" / "ray"
    # Links of Ray's lead to the last session.
    for session in folder.glob("session_2*"):
        shutil.rmtree(logs, ignore_errors=True)
        shutil.copytree(session / "logs", logs, ignore_dangling_symlinks=True)
    shutil.rmtree(folder, ignore_errors=True)
    settings.session.unlink()


def what_next(settings: Settings) -> str:
    """Addresses, and commands that work as they stand in the user's shell."""
    uv = shutil.which("uv") or (str(ROOT / ".uv/bin/uv") if (ROOT / ".uv/bin/uv").exists() else None)
    run = "uv run " if shutil.which("uv") else f"{shlex.quote(uv)} run " if uv else f"{shlex.quote(str(BIN))}/"
    beton = ROOT / "data" / "shapes.beton"
    prepare = f"{run}python jobs/prepare_data.py --source.kind shapes --source.count 2048 --encoding.preset small"
    lines = [
        f"Ray's dashboard  {settings.dashboard} (it asks for the token, which is in {settings.token})",
        f"MLflow           {settings.mlflow} ({settings.database})",
        f"logs             {settings.folder / 'logs'}; of jobs that run, {settings.session}/session_latest/logs",
        "",
        "Next:",
        "",
        f"    cd {shlex.quote(str(ROOT))}",
        f"    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH={shlex.quote(str(settings.token))}",
        *([] if beton.exists() else [f"    {prepare} --output data/shapes.beton"]),
        f"    {run}ray job submit --address {settings.dashboard} --working-dir . -- \\",
        f"        python jobs/imagenet_resnet50.py --preset demo --data.beton {shlex.quote(str(beton))}",
        "",
        f"Commands that are not submitted join it by --compute.address {HOST}:{settings.ray_port}.",
        "",
        "To stop it:",
        "",
        f"    {run}python {Path(__file__).resolve().relative_to(ROOT)} stop",
    ]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Runs a subcommand; returns the exit status."""
    parser = argparse.ArgumentParser(prog="cluster.py", description=__doc__)
    parser.add_argument("command", choices=("start", "stop", "status"))
    command = parser.parse_args(arguments).command
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        settings = read_settings()
        if command == "status":
            return status(settings)
        settings.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(settings.folder / "lock", timeout=0):
            (start if command == "start" else stop)(settings)
    # It is an OSError too.
    except Timeout:
        print(f"cluster.py: another start or stop is at work in {settings.folder}; wait for it", file=sys.stderr)
        return 1
    except (ServiceError, OSError) as error:
        print(f"cluster.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cluster.py: interrupted; what it had started is ended", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
