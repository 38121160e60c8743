"""All checks of a cluster, one after another."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray

from metaug_ray.config.preflight import PreflightSettings
from metaug_ray.preflight import betons, clock, disk, gpus, memory, objects, ports, storage, versions
from metaug_ray.preflight.all_reduce import measure_all_reduce
from metaug_ray.preflight.cluster_nodes import Node, alive_nodes, check_cluster, on_gpus, working
from metaug_ray.preflight.findings import CLUSTER, Finding, fault
from metaug_ray.preflight.mlflow_server import check_mlflow
from metaug_ray.preflight.probes import Answers, Probes
from metaug_ray.runtime.cluster import cluster
from metaug_ray.runtime.errors import ClusterError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """What was found.

    Attributes:
        findings: in the order of the checks.
        nodes: how many nodes the cluster has.
    """

    findings: Sequence[Finding]
    nodes: int

    @property
    def faults(self) -> int:
        """How many there are."""
        return sum(finding.verdict == "fault" for finding in self.findings)


def look(settings: PreflightSettings) -> Report:
    """Check the cluster, and what a run needs besides. Leaves no file and no process behind.

    Args:
        settings: of the run, and what is expected.
    """
    _log.info("MLflow: %s", settings.tracking.uri)
    tracking = check_mlflow(settings.tracking)
    try:
        with cluster(settings.compute.address):
            nodes = alive_nodes()
            _log.info("the cluster's nodes: %s", ", ".join(node.name for node in nodes))
            return Report([*_Look(settings, nodes).findings(), *tracking], len(nodes))
    except ClusterError as error:
        what, _, advice = str(error).rpartition("; ")
        return Report([fault(CLUSTER, "cluster", what, advice), *tracking], 0)


class _Look:
    def __init__(self, settings: PreflightSettings, nodes: Sequence[Node]) -> None:
        self._settings = settings
        self._nodes = nodes
        # Of a cluster that cannot hold the run, what there is is looked at all the same.
        self._gpu = on_gpus(nodes, settings.compute.device)
        self._working = working(nodes, settings.compute.device)
        self._home = nodes[0].name
        self._size = settings.check.megabytes * 10**6

    def findings(self) -> list[Finding]:
        """Of all checks, in the order in which they are made."""
        check = self._settings.check
        found = check_cluster(self._nodes, self._settings)
        with Probes(self._nodes, check.timeout) as probes:
            found += self._machines(probes)
            found += self._ports(probes)
            found += self._storage(probes)
            found += self._data(probes)
            answering = [node for node in self._working if node.name in probes.answering()]
        if answering:
            found.append(
                measure_all_reduce(
                    answering,
                    gpu=self._gpu,
                    megabytes=check.megabytes,
                    timeout=check.timeout,
                    least=check.least_all_reduce,
                )
            )
        return found

    def _machines(self, probes: Probes) -> list[Finding]:
        told = probes.ask("versions", versions.versions)
        found = versions.check_versions(told.values, told.failed, self._home)
        cards = probes.ask("GPUs", gpus.gpus)
        found += gpus.check_gpus(
            cards.values, cards.failed, self._nodes, wanted=self._gpu or self._settings.compute.device == "gpu"
        )
        sizes = probes.ask("memory", memory.memory)
        found += memory.check_memory(sizes.values, sizes.failed, self._nodes)
        data = ray.put(bytes(objects.SIZE))
        received = probes.ask("object store", objects.size_of, partial(_always, (data,)))
        found += objects.check_objects(received.values, received.failed)
        times = probes.in_turn("clock", clock.now, 3)
        return found + clock.check_clock(times.values, times.failed, self._settings.check.clock_skew)

    def _ports(self, probes: Probes) -> list[Finding]:
        listening = probes.listen()
        needed = ports.needed(self._nodes, ray.get_runtime_context().gcs_address, listening.values)
        closed = probes.ask("ports", ports.unreachable, partial(_always, (needed,)))
        return ports.check_ports(closed.values, listening.failed | closed.failed, len(needed))

    def _storage(self, probes: Probes) -> list[Finding]:
        location, least, home = self._settings.storage, self._settings.check.least_storage, [self._home]
        chosen = probes.ask("storage", storage.choose, partial(_always, (location,)), only=home)
        if self._home not in chosen.values:
            return storage.check_storage("", {}, {}, chosen.failed, location, least)
        place = chosen.values[self._home]
        with self._removed(probes, place) as left:
            prepared = probes.ask("storage: prepare", storage.prepare, partial(_always, (place,)), only=home)
            token = prepared.values.get(self._home)
            if token is None:
                return storage.check_storage("", {}, {}, prepared.failed, location, least)
            # Names of nodes may hold what no file's may.
            files = {node.name: f"node-{number}" for number, node in enumerate(self._nodes)}
            wrote = probes.ask("storage: write", storage.write, lambda name: (place, files[name], self._size))
            sources = storage.neighbours([name for name, own in wrote.values.items() if own.token == token])
            read: Answers[float] = probes.ask(
                "storage: read",
                storage.read,
                lambda name: (place, files[sources[name]], self._size),
                only=list(sources),
            )
        found = storage.check_storage(token, wrote.values, read.values, wrote.failed | read.failed, location, least)
        return found + left

    @contextmanager
    def _removed(self, probes: Probes, place: storage.Place) -> Iterator[list[Finding]]:
        """Takes the folder away at the end, whatever happens; gives what could not be removed."""
        left: list[Finding] = []
        patience: float | None = None
        try:
            yield left
        except BaseException:
            # Whoever interrupts the command does not wait for long, and nobody shall go on writing.
            patience = 5.0
            probes.give_up_all_but(self._home)
            raise
        finally:
            gone = probes.ask(
                "storage: tidy", storage.remove, partial(_always, (place,)), only=[self._home], timeout=patience
            )
            if self._home not in gone.values:
                why = gone.failed[self._home].why if self._home in gone.failed else "the node does not answer"
                advice = f"remove {place.storage}/{place.name} yourself"
                left.append(fault(self._home, storage.CHECK, f"what was written cannot be removed ({why})", advice))

    def _data(self, probes: Probes) -> list[Finding]:
        staging = self._settings.compute.staging
        found: list[Finding] = []
        copies: dict[Path, int] = {}
        for beton in self._settings.betons:
            wanted = (beton, staging)
            seen = probes.ask(f"beton {beton}", betons.look_at_beton, partial(_always, wanted))
            found += betons.check_beton(beton, seen.values, seen.failed, self._home)
            copies |= {
                own.copy: own.bytes_on(len(self._working)) for own in seen.values.values() if own.copy is not None
            }
        if staging is None:
            return found
        names = [node.name for node in self._working]
        task = (staging, list(copies.items()), self._size)
        told = probes.ask("staging disk", disk.look_at_disk, partial(_always, task), only=names)
        return found + disk.check_disk(told.values, told.failed, staging, self._settings.check.least_disk)


def _always(arguments: tuple[Any, ...], name: str) -> tuple[Any, ...]:
    """The same arguments for each node."""
    return arguments
