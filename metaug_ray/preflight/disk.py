"""Each node's own disk, to which betons are staged: whether it has room for them, and how fast it is."""

import errno
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metaug_ray.data.progress import readable_size
from metaug_ray.preflight.findings import Failed, Finding, fault, faults, judged
from metaug_ray.preflight.rates import Rates, folder_for_a_while, megabytes_a_second, on_disk, read_all, write_noise

_CHECK: Final = "staging disk"
_ADVICE: Final = "give --compute.staging a folder on the node's own disk that workers may write"


@dataclass(frozen=True)
class Disk:
    """Of one node.

    Attributes:
        free: bytes.
        needed: bytes of the betons that are not staged yet.
        rates: None where the disk has no room even for what would measure them.
    """

    free: int
    needed: int
    rates: Rates | None


def look_at_disk(folder: Path, copies: Sequence[tuple[Path, int]], size: int) -> Disk:
    """What the disk of a folder has room for. Leaves nothing behind, however it ends: its file has no name.

    Args:
        folder: for copies of betons.
        copies: where each beton's copy would lie, and its bytes.
        size: bytes that are written and read.

    Raises:
        OSError: the folder cannot be written.
    """
    with folder_for_a_while(folder):
        free = shutil.disk_usage(folder).free
        needed = sum(count for copy, count in copies if not copy.exists())
        try:
            return Disk(free, needed, _rates(folder, size))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return Disk(free, needed, None)


def _rates(folder: Path, size: int) -> Rates:
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        began = time.perf_counter()
        write_noise(file, size)
        on_disk(file)
        written = megabytes_a_second(size, began)
        file.seek(0)
        return Rates(written, read_all(file))


def check_disk(told: Mapping[str, Disk], failed: Mapping[str, Failed], folder: Path, least: float) -> list[Finding]:
    """Whether the betons fit, and can be read fast enough.

    Args:
        told: by node.
        failed: why others told nothing, by node.
        folder: that they are staged to.
        least: rate in MB/s.
    """
    return faults(_CHECK, failed, _ADVICE) + [_check_node(node, own, folder, least) for node, own in told.items()]


def _check_node(node: str, own: Disk, folder: Path, least: float) -> Finding:
    room = f"{folder}: {readable_size(own.free)} free"
    if own.needed:
        room += f" for {readable_size(own.needed)} to stage"
    if own.needed > own.free or own.rates is None:
        return fault(node, _CHECK, room, "free some space there, or give --compute.staging a folder on a larger disk")
    slow = "give --compute.staging a folder on an SSD of the node: images are read from it in random order"
    rate = min(own.rates.write, own.rates.read)
    return judged(node, _CHECK, f"{room}, {own.rates}", rate, least, slow)
