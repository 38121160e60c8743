"""The betons of a run: readable on every node, and the same everywhere."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from metaug_ray.data.progress import readable_size
from metaug_ray.data.staging import copy_of, find_manifest, open_binary, within
from metaug_ray.preflight.findings import Failed, Finding, fault, faults

_CHECK: Final = "beton"
_BLOCK: Final = 1 << 20
_BLOCKS: Final = 16
_ADVICE: Final = (
    "put the beton and its manifest under this path on every node, or give a URI and --compute.staging a folder"
)


@dataclass(frozen=True)
class Seen:
    """A beton as one node sees it.

    Attributes:
        bytes: of the beton, or of all its shards.
        sha256: of it, as its manifest says.
        sample: of sixteen of its megabytes, as they are; of a URI, of the first.
        copy: where its copy would lie; None where it is not staged.
        shards: of them each node needs its part; a single beton is one.
    """

    bytes: int
    sha256: str
    sample: str
    copy: Path | None = None
    shards: int = 1

    def bytes_on(self, nodes: int) -> int:
        """Of the shards that one of so many nodes needs: its part, and one that it shares with another node."""
        return math.ceil(self.bytes / self.shards * min(self.shards, math.ceil(self.shards / nodes) + 1))


def look_at_beton(beton: str, staging: Path | None) -> Seen:
    """What this node sees of a beton, without reading all of it.

    Raises:
        DataError: it, or its manifest, is missing, broken or unreachable.
    """
    manifest = find_manifest(beton)
    local = "://" not in beton
    digest = hashlib.sha256()
    files = [(within(beton, shard.name), shard.bytes) for shard in manifest.shards] or [(beton, manifest.bytes)]
    for number in range(_BLOCKS if local else 1):
        place, size = files[number * len(files) // _BLOCKS]
        with open_binary(place) as file:
            if local:
                file.seek(number * max(size - _BLOCK, 0) // (_BLOCKS - 1))
            digest.update(file.read(_BLOCK))
    copy = None if staging is None else copy_of(beton, manifest, staging)
    return Seen(manifest.bytes, manifest.sha256, digest.hexdigest(), copy, len(files))


def check_beton(beton: str, told: Mapping[str, Seen], failed: Mapping[str, Failed], home: str) -> list[Finding]:
    """Whether all nodes see the beton that the driver's sees.

    Args:
        beton: path or URI.
        told: by node.
        failed: why others told nothing, by node.
        home: the driver's node.
    """
    findings = faults(_CHECK, failed, _ADVICE)
    reference = told.get(home)
    for node, own in told.items():
        shown = f"{beton}: {readable_size(own.bytes)}, SHA-256 {own.sha256[:12]}"
        if reference is None or own == reference:
            findings.append(Finding(node, _CHECK, shown))
            continue
        differ = "its bytes" if own.sha256 == reference.sha256 else f"{reference.sha256[:12]} in its manifest"
        findings.append(
            fault(node, _CHECK, f"{shown}; on {home} it has other content ({differ})", "copy the beton there again")
        )
    return findings
