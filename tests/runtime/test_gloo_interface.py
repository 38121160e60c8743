import os
import socket
import subprocess
from typing import Any

import pytest
import ray.util

from metaug_ray.runtime.gloo_interface import VARIABLE, _is_loopback, choose_interface, interface_of


def of_kernel(*options: str) -> list[list[str]]:
    return [line.split() for line in subprocess.check_output(["ip", "-brief", *options], text=True).splitlines()]


def test_interfaces_by_their_addresses() -> None:
    found = {name: addresses for name, _, *addresses in of_kernel("-4", "address")}
    assert "lo" in found
    for name, addresses in found.items():
        assert interface_of(addresses[0].partition("/")[0]) == name
    assert interface_of("203.0.113.7") is None


def test_names_that_lead_nowhere_else() -> None:
    assert _is_loopback("localhost")
    assert _is_loopback("no-such-host.invalid")
    assert not _is_loopback("192.0.2.7")


def test_chosen_where_the_hosts_name_is_loopback_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(host: str, set_by_user: str | None = None) -> Any:
        monkeypatch.setattr(socket, "gethostname", lambda: host)
        monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
        monkeypatch.delenv(VARIABLE, raising=False)
        if set_by_user is not None:
            monkeypatch.setenv(VARIABLE, set_by_user)
        choose_interface()
        return os.environ.get(VARIABLE)

    assert chosen("localhost") == "lo"
    assert chosen("192.0.2.7") is None
    assert chosen("localhost", set_by_user="eth7") == "eth7"
