"""Addresses of Ray clusters, looked at without Ray."""

import socket
from contextlib import suppress


def check_address(address: str | None) -> None:
    """Whether something listens there; raises `OSError` after seconds, where Ray would look for minutes.

    Args:
        address: host:port; anything else but a URL is left to Ray.

    Raises:
        OSError: nothing does.
        ValueError: it is an address of another kind.
    """
    if (address or "").startswith(("http://", "https://")):
        raise ValueError("not an address of the form host:port")
    if (address or "").startswith("ray://"):
        raise ValueError("Ray Client runs no training; submit the command with `ray job submit` instead")
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def answers(address: str) -> bool:
    """Whether something listens at an address of a cluster."""
    with suppress(OSError):
        check_address(address)
        return True
    return False
