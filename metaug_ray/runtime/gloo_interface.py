"""The network interface that gloo connects workers by: one that other nodes reach.

Gloo takes that of the host's name. On many machines the name is in /etc/hosts beside a loopback address, and workers
of other nodes then wait for themselves. What this uses of Ray Train is private: an upgrade of Ray may break it.
"""

import os
import socket
from ipaddress import ip_address
from typing import Any, Final

import psutil
import ray.util
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

VARIABLE: Final = "GLOO_SOCKET_IFNAME"


def choose_interface() -> None:
    """Let this process's gloo take the interface of Ray's address, where it would take loopback; whoever has set the
    variable knows better."""
    if VARIABLE not in os.environ and _is_loopback(socket.gethostname()):
        interface = interface_of(ray.util.get_node_ip_address())
        if interface is not None:
            os.environ[VARIABLE] = interface


def interface_of(address: str) -> str | None:
    """Name of the interface of this machine with an IP address; None where there is none."""
    addresses = psutil.net_if_addrs()
    return next((name for name, several in addresses.items() if address in {each.address for each in several}), None)


def _is_loopback(host: str) -> bool:
    """Whether a name leads to this machine alone. One that is not known does, too: gloo falls back on loopback."""
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return True
    # The zone of a link-local address is no part of it.
    return ip_address(str(found[0][4][0]).partition("%")[0]).is_loopback


class _ReachableBackend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(choose_interface)
        super().on_start(worker_group, backend_config)


class ReachableTorchConfig(TorchConfig):  # type: ignore[misc]
    """Ray Train's, with workers that choose their interface before they connect."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _ReachableBackend
