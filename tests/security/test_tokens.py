"""Ray with tokens, as users start it: its dashboard and the commands, with the right token, another one, and none."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from tests.security.planted import ENVIRONMENT, SECRETS, leaks

pytestmark = pytest.mark.slow

BEGIN = """
import ray, sys
context = ray.init(num_cpus=1, dashboard_port=0, include_dashboard=True, logging_level="ERROR", log_to_driver=False)
print(*(context.address_info[name] for name in ("gcs_address", "webui_url", "session_dir")), flush=True)
sys.stdin.read()
"""
JOIN = """
import sys
from metaug_ray.errors import UserError
from metaug_ray.runtime.cluster import cluster
try:
    with cluster(sys.argv[1]):
        print("joined")
except UserError as error:
    sys.exit(f"sentence: {error}")
"""


@dataclass(frozen=True)
class Cluster:
    address: str
    dashboard: str
    session: Path
    home: Path


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """In a process of its own: this one may be part of the other tests' cluster."""
    home = tmp_path_factory.mktemp("home")
    process = subprocess.Popen(
        [sys.executable, "-c", BEGIN],
        env=os.environ | ENVIRONMENT | {"RAY_ADDRESS": "local", "HOME": str(home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    # Left, it closes the process's input, at whose end it shuts the cluster down.
    with process:
        assert process.stdout is not None
        address, dashboard, session = process.stdout.readline().split()
        yield Cluster(address, dashboard, Path(session), home)


@pytest.mark.parametrize(
    "path", ["api/version", "api/jobs/", "api/cluster_status", "nodes?view=summary", "api/v0/tasks"]
)
def test_the_dashboard_answers_whoever_has_the_token(cluster: Cluster, path: str) -> None:
    assert cluster.dashboard.startswith("127.0.0.1:")
    token = SECRETS["RAY_AUTH_TOKEN"]
    for headers, status in (({}, 401), ({"Authorization": f"Bearer {token[::-1]}"}, 403)):
        with pytest.raises(HTTPError) as caught:
            urlopen(Request(f"http://{cluster.dashboard}/{path}", headers=headers), timeout=20)
        assert caught.value.code == status
    request = Request(f"http://{cluster.dashboard}/{path}", headers={"Authorization": f"Bearer {token}"})
    assert urlopen(request, timeout=20).status == 200


def test_commands_need_the_token(cluster: Cluster) -> None:
    def start(**variables: str) -> subprocess.Popen[str]:
        # Ray asks anew each second, twenty times.
        environment = {"HOME": str(cluster.home), "RAY_NUM_REDIS_GET_RETRIES": "2"} | variables
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return subprocess.Popen(
            [sys.executable, "-c", JOIN, cluster.address],
            env=kept | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    other = start(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=SECRETS["RAY_AUTH_TOKEN"][::-1])
    off = start(RAY_AUTH_MODE="disabled")
    missing = start(RAY_AUTH_MODE="token")
    right = start(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=SECRETS["RAY_AUTH_TOKEN"])
    said = [process.communicate(timeout=120) for process in (other, off, missing, right)]
    for process, (_, error) in zip((other, off), said, strict=False):
        assert process.returncode == 1, error
        assert f"sentence: compute.address: no Ray cluster at {cluster.address}" in error
        assert "a cluster that wants another token listens there, or something else: give the token that" in error
    assert missing.returncode == 1
    assert said[2][1].splitlines()[-1].startswith("sentence: compute.address: Ray's token is missing (Token authent")
    assert (right.returncode, said[3][0]) == (0, "joined\n"), said[3][1]
    assert not leaks("".join(map("".join, said)), cluster.session, cluster.home)
