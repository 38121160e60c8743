"""What the kernel counts on the connections of this process."""

import socket
import struct
from contextlib import suppress
from pathlib import Path

import torch.distributed as dist

_BYTES_RECEIVED = 128  # offset in Linux's struct tcp_info: u64 tcpi_bytes_received


def received_bytes() -> int:
    """Bytes that arrived so far over all TCP connections of this rank, without headers. A collective call: connections
    whose other end is gone would be missing."""
    dist.barrier()
    total = _received()
    dist.barrier()
    return total


def _received() -> int:
    total = 0
    for descriptor in Path("/proc/self/fd").iterdir():
        # No socket, or closed meanwhile, or one of another family.
        with suppress(OSError):
            borrowed = socket.socket(fileno=int(descriptor.name))
            try:
                if borrowed.family in (socket.AF_INET, socket.AF_INET6) and borrowed.type == socket.SOCK_STREAM:
                    info = borrowed.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
                    total += struct.unpack_from("<Q", info, _BYTES_RECEIVED)[0]
            finally:
                borrowed.detach()
    return total
