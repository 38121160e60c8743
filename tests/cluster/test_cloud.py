"""The files for `ray up`: what Ray's own schema allows, and what is promised of them."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.cluster import checks
from tests.cluster.documents import ROOT, project

CLOUD = ROOT / "cluster" / "cloud"
FILES = sorted(CLOUD.glob("*.yaml"))


def faults(config: dict[str, Any]) -> list[str]:
    """What Ray refuses, or what would be open, lost or different from the lock file."""
    try:
        validate_config(prepare_config(deepcopy(config)))
    except Exception as error:
        return [f"Ray: {error}"]
    found = []
    head = config["available_node_types"][config["head_node_type"]]
    workers = [node for name, node in config["available_node_types"].items() if name != config["head_node_type"]]
    if _is_spot(head) or not all(map(_is_spot, workers)):
        found.append("the head is to be on demand, and workers are to be spot machines")
    if head["resources"].get("CPU") != 0:
        found.append("workers of jobs may run on the head")
    if not all(1 <= node["min_workers"] <= node["max_workers"] for node in workers):
        found.append("a job would find no workers")
    commands = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    starts = [line for line in commands if "ray start" in line]
    if len(starts) != 2 or not all("RAY_AUTH_MODE=token" in line for line in starts):
        found.append("Ray starts without tokens")
    if "--dashboard-host=127.0.0.1" not in starts[0]:
        found.append("the dashboard is open")
    if "~/.ray/auth_token" not in config["file_mounts"]:
        found.append("nodes have no token")
    return found + _set_up_faults(config["setup_commands"]) + _network_faults(config["provider"])


def _set_up_faults(commands: list[str]) -> list[str]:
    sync = [line for line in commands if "uv sync" in line]
    if len(sync) != 1 or "--frozen" not in sync[0]:
        return ["the set-up does not follow uv.lock"]
    group = re.search(r"--group (\w+)", sync[0])
    return [] if group and group[1] in project()["dependency-groups"] else ["the group of packages is not there"]


def _network_faults(provider: dict[str, Any]) -> list[str]:
    rules = provider.get("security_group", {}).get("IpPermissions", [])
    ranges = [entry["CidrIp"] for rule in rules for entry in rule["IpRanges"]]
    ports = {(rule["FromPort"], rule["ToPort"]) for rule in rules}
    if provider["type"] == "aws" and (ports != {(22, 22)} or "0.0.0.0/0" in ranges):
        return ["more than SSH from known addresses is open"]
    return []


def _is_spot(node: dict[str, Any]) -> bool:
    config = node["node_config"]
    market = config.get("InstanceMarketOptions", {}).get("MarketType")
    return bool(market == "spot" or config.get("scheduling", {}).get("provisioningModel") == "SPOT")


@pytest.fixture(params=FILES, ids=lambda file: file.name)
def file(request: pytest.FixtureRequest) -> Path:
    assert isinstance(request.param, Path)
    return request.param


def test_there_are_two() -> None:
    assert [file.name for file in FILES] == ["aws.yaml", "gcp.yaml"]


def test_ray_takes_them_and_they_keep_their_promises(file: Path) -> None:
    config = yaml.safe_load(file.read_text())
    assert not faults(config)
    assert not checks.secret_faults(config, file.name)
    assert not checks.text_faults(file.read_text(), file.name)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("max_workers: 8\nupscaling", "max_worker: 8\nupscaling", "Ray: "),
        ("head_node_type: head\n", "", "Ray: "),
        ("max_workers: 8\nupscaling", "max_workers: two\nupscaling", "Ray: "),
        ("MarketType: spot", "MarketType: capacity-block", "spot machines"),
        ("resources: {CPU: 0}", "resources: {CPU: 8}", "on the head"),
        ("    min_workers: 2\n", "    min_workers: 0\n", "no workers"),
        (" RAY_AUTH_MODE=token;", ";", "without tokens"),
        (" --dashboard-host=127.0.0.1", "", "dashboard is open"),
        ("  ~/.ray/auth_token: ~/.ray/auth_token\n", "", "no token"),
        ("uv sync --frozen", "uv sync", "uv.lock"),
        ("--group aws", "--group amazon", "not there"),
        ("203.0.113.0/24", "0.0.0.0/0", "SSH"),
        ("FromPort: 22", "FromPort: 0", "SSH"),
    ],
)
def test_a_planted_fault_is_found(old: str, new: str, said: str) -> None:
    text = (CLOUD / "aws.yaml").read_text()
    assert old in text
    assert said in "\n".join(faults(yaml.safe_load(text.replace(old, new))))
