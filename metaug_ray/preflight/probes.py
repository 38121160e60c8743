"""A process on each node of the cluster that does what it is asked for, and is given up where it does not answer."""

import logging
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Self, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from metaug_ray.preflight.cluster_nodes import Node
from metaug_ray.preflight.findings import Failed
from metaug_ray.preflight.waiting import wait_for
from metaug_ray.runtime.words import counted, first_line

_T = TypeVar("_T")
_LONGEST: Final = 500
"""Characters that are told of an error."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answers(Generic[_T]):
    """What nodes told, by name, and why others did not."""

    values: dict[str, _T]
    failed: dict[str, Failed]


def attempted(function: Callable[..., _T], *arguments: Any) -> _T | Failed:
    """What a function returns, or why it does not: the driver tells that as a fault of this node."""
    try:
        return function(*arguments)
    except Exception as error:  # whatever it is
        return Failed(" ".join(str(error).split())[:_LONGEST] or type(error).__name__)


class Probe:
    """What runs on a node."""

    def __init__(self) -> None:
        self._listener: socket.socket | None = None

    def call(self, function: Callable[..., _T], *arguments: Any) -> _T | Failed:
        """What the function returns, or why it does not."""
        return attempted(function, *arguments)

    def listen(self) -> int:
        """A port that takes connections for as long as this process lives, chosen as `torch.distributed` does."""
        if self._listener is None:
            self._listener = socket.create_server(("", 0), backlog=4096)
        port: int = self._listener.getsockname()[1]
        return port


class Probes:
    """Processes on all nodes, for as long as it is entered. They take no share of the cluster.

    Args:
        nodes: of the cluster.
        timeout: seconds that each has for an answer. One that does not give it is not asked again.
    """

    def __init__(self, nodes: Sequence[Node], timeout: float) -> None:
        self._nodes = nodes
        self._timeout = timeout
        self._actors: dict[str, Any] = {}

    def __enter__(self) -> Self:
        # A second call need not wait for a first one that hangs: what that wrote can be removed meanwhile.
        remote = ray.remote(num_cpus=0, max_concurrency=2)(Probe)
        for node in self._nodes:
            there = NodeAffinitySchedulingStrategy(node.id, soft=False)
            self._actors[node.name] = remote.options(scheduling_strategy=there).remote()
        return self

    def __exit__(self, *_: object) -> None:
        for actor in self._actors.values():
            ray.kill(actor)

    def answering(self) -> list[str]:
        """Names of the nodes that were not given up."""
        return list(self._actors)

    def give_up_all_but(self, name: str) -> None:
        """End the processes on all nodes but one."""
        for other in self.answering():
            if other != name:
                self._give_up(other)

    def ask(
        self,
        what: str,
        function: Callable[..., _T],
        arguments: Callable[[str], tuple[Any, ...]] = lambda name: (),
        *,
        only: Sequence[str] | None = None,
        timeout: float | None = None,
    ) -> Answers[_T]:
        """Have a function called on all nodes at once.

        Args:
            what: the user is told.
            function: of a module, which the nodes import.
            arguments: for a node, by name.
            only: names of nodes; None: all.
            timeout: seconds, in place of the usual ones.
        """
        asked = [name for name in self._actors if only is None or name in only]
        calls = {self._actors[name].call.remote(function, *arguments(name)): name for name in asked}
        return self._collect(what, calls, timeout)

    def listen(self) -> Answers[int]:
        """A port of each node that takes connections."""
        return self._collect("ports", {actor.listen.remote(): name for name, actor in self._actors.items()}, None)

    def in_turn(self, what: str, function: Callable[[], _T], times: int) -> Answers[list[tuple[float, _T, float]]]:
        """Have a function called on one node after another.

        Returns:
            For each time the seconds at which it was asked for, the answer, and the seconds at which that came.
        """
        values: dict[str, list[tuple[float, _T, float]]] = {}
        failed: dict[str, Failed] = {}
        for name, actor in list(self._actors.items()):
            values[name] = []
            for _ in range(times):
                sent = time.time()
                told: Answers[_T] = self._collect(what, {actor.call.remote(function): name}, None, quiet=True)
                if told.failed:
                    failed |= told.failed
                    del values[name]
                    break
                values[name].append((sent, told.values[name], time.time()))
        return Answers(values, failed)

    def _collect(self, what: str, calls: dict[Any, str], timeout: float | None, *, quiet: bool = False) -> Answers[Any]:
        values: dict[str, Any] = {}
        failed: dict[str, Failed] = {}
        patience = self._timeout if timeout is None else timeout
        began = time.monotonic()
        late = wait_for(what, calls, patience)
        for call, name in calls.items():
            if call in late:
                failed[name] = Failed(f"no answer within {patience:g} s", silent=True)
                self._give_up(name)
            else:
                self._take(name, call, values, failed)
        if not quiet:
            _log.info("%s: %s in %.1f s", what, counted(len(values), "answer"), time.monotonic() - began)
        return Answers(values, failed)

    def _take(self, name: str, call: Any, values: dict[str, Any], failed: dict[str, Failed]) -> None:
        try:
            value = ray.get(call)
        # Also where the node's Python cannot import what it is sent.
        except Exception as error:
            failed[name] = Failed(first_line(error))
            self._give_up(name)
            return
        if isinstance(value, Failed):
            failed[name] = value
        else:
            values[name] = value

    def _give_up(self, name: str) -> None:
        actor = self._actors.pop(name, None)
        if actor is not None:
            ray.kill(actor)
