"""The Ray cluster that a driver works on: joined or started, looked at, left."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import ray
from ray.exceptions import AuthenticationError

from metaug_ray.private import last_ray_address
from metaug_ray.runtime.address import answers, check_address
from metaug_ray.runtime.errors import ClusterError, ClusterLostError
from metaug_ray.runtime.placement import Placement
from metaug_ray.runtime.words import first_line

_DASHBOARD_PORT: Final = 8265
_TOKEN: Final = (
    "give the token that the cluster was started with: RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN, the file that "
    "RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token"
)
_log = logging.getLogger(__name__)


@contextmanager
def cluster(address: str | None, *, start_timeout: int = 300) -> Iterator[None]:
    """Join the cluster at an address, or start one for this process; leave it at the end, unless it was joined before.

    Args:
        address: host:port; None for RAY_ADDRESS, else the cluster that this machine is part of, else a new one.
        start_timeout: seconds that Ray Train gives workers to start; its own minute is too short for a slow machine.

    Raises:
        ClusterError: there is no cluster.
        ClusterLostError: Ray did not come up.
    """
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(start_timeout))
    already = ray.is_initialized()
    found = address
    try:
        if not already:
            # As Ray looks for it: the last is what `ray start` left on this machine.
            found = address or os.environ.get("RAY_ADDRESS") or last_ray_address()
            check_address(found)
            if not found:
                _log.info("no cluster is named (compute.address, RAY_ADDRESS): Ray starts here, for this command alone")
            before = signal.getsignal(signal.SIGTERM)
            # That a cluster is open to others is a warning, that it is closed is none.
            logging.getLogger("ray._private.authentication.authentication_token_setup").addFilter(_worth_telling)
            # The monitor says what users want to know; Ray's own lines stay in its log files.
            ray.init(address=address, logging_level="WARNING", log_to_driver=False)
            if threading.current_thread() is threading.main_thread():
                # Ray's own handler aborts this process three seconds after the signal.
                signal.signal(signal.SIGTERM, before)
    except AuthenticationError as error:
        raise ClusterError(
            f"compute.address: Ray's token is missing ({_first_sentence(error)}); {_TOKEN}, or RAY_AUTH_MODE=disabled "
            "where Ray was started so"
        ) from error
    except (OSError, RuntimeError, ValueError) as error:
        advice = _advice(address, found or "", isinstance(error, ConnectionError))
        raise ClusterError(
            f"compute.address: no Ray cluster at {found} ({str(error).splitlines()[0]}); {advice}"
        ) from error
    except Exception as error:
        # Ray raises no kind of its own where a node does not come up.
        if type(error) is not Exception:
            raise
        raise ClusterLostError(
            f"Ray did not start on this machine ({first_line(error)}); see what keeps it busy, and give the same "
            "command again"
        ) from error
    leave = not already
    try:
        yield
    except (KeyboardInterrupt, SystemExit):
        # A job that is stopped has three seconds, and MLflow must hear of it; Ray ends with the process.
        leave = False
        raise
    finally:
        if leave:
            ray.shutdown()


def remote(function: Callable[..., Any], placement: Placement, **options: Any) -> Any:
    """A Ray task with a worker's share of the cluster."""
    # A process that had a GPU ends with its task: it would keep the GPU's memory, and be bound to it for ever.
    shares = {"num_cpus": placement.cpus, "num_gpus": placement.worker.get("GPU", 0), "max_calls": int(placement.gpu)}
    # A sweep's processes have next to nothing reserved, and Ray would look for the share within that.
    return ray.remote(**{"scheduling_strategy": "DEFAULT"} | shares | options)(function)


def nodes() -> list[dict[str, float]]:
    """What each node of the cluster has in all, by Ray's names."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def warn_if_busy(placement: Placement) -> None:
    """Tell the user what resources others hold: Ray waits for them, and says nothing."""
    free = ray.available_resources()
    for kind, each in placement.worker.items():
        count = placement.min_workers * each
        if free.get(kind, 0) < count:
            _log.warning(
                "waiting for %ss: the run needs %g, and %g are free; it begins when other jobs give theirs back",
                kind,
                count,
                free.get(kind, 0),
            )


def _first_sentence(error: Exception) -> str:
    return str(error).partition(". ")[0]


def _advice(address: str | None, found: str, no_connection: bool) -> str:
    """What to do about an address that does not answer as a cluster."""
    if found.startswith(("http://", "https://")) or found.endswith(f":{_DASHBOARD_PORT}"):
        host = found.rpartition("://")[2].partition(":")[0]
        return (
            "that is the address of Ray's dashboard, which takes jobs: `ray job submit --address "
            f"http://{host}:{_DASHBOARD_PORT} -- ...`; a command joins the cluster itself, at {host}:6379 where "
            "`ray start --head` chose no other port"
        )
    if no_connection and answers(found):
        # Ray says the same of a cluster that wants another token.
        return f"a cluster that wants another token listens there, or something else: {_TOKEN}"
    if address is None and os.environ.get("RAY_ADDRESS") is None:
        return "this machine was part of it; `ray stop` makes it forget a cluster that is no more"
    said = "the address" if address is not None else "RAY_ADDRESS"
    return f"start one with `ray start --head`, or leave {said} out"


def _worth_telling(record: logging.LogRecord) -> bool:
    return "authentication is enabled" not in record.getMessage()
