"""The way of messages from workers and Ray Train's controller to the driver."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.train import UserCallback
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from metaug_ray.runtime.messages import Message, WorkersFailed
from metaug_ray.runtime.notices import is_taken
from metaug_ray.runtime.words import first_line

_log = logging.getLogger(__name__)


def post(queue: Queue, message: Message) -> Any:
    """Send a message without waiting until it is taken.

    Returns:
        A reference to wait for where the message must not be lost.
    """
    return queue.actor.put_nowait.remote(message)


@contextmanager
def listening(take: Callable[[Message], None]) -> Iterator[Queue]:
    """A queue whose messages a thread of the driver takes; at the end all have been taken.

    Args:
        take: gets each message; one that it fails at is told of, and left.
    """
    # On this node: the run must not end with another one.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queue = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
    ended = threading.Event()

    def run() -> None:
        while True:
            try:
                message: Message = queue.get(timeout=0.5)
            except Empty:
                if ended.is_set():
                    return
                continue
            # The queue is gone with the cluster; what happened to the run, the main thread says.
            except Exception as error:
                if not ended.is_set():
                    _log.warning("nothing more is heard of the workers (%s)", type(error).__name__)
                return
            try:
                take(message)
            except Exception as error:
                _log.warning("cannot record what a worker sent (%s: %s): %.200s", type(error).__name__, error, message)

    thread = threading.Thread(target=run, name="listener", daemon=True)
    thread.start()
    patience = 60
    try:
        yield queue
    except (KeyboardInterrupt, SystemExit):
        # A job that is stopped has three seconds.
        patience = 0
        raise
    finally:
        ended.set()
        thread.join(patience)


class FailureMessages(UserCallback):
    """Tells the driver, from Ray Train's controller, when a worker failed."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        # A node that was announced to go took them along: Ray Train says so once, when it begins again.
        if any(map(is_taken, worker_exceptions.values())):
            return
        post(self._queue, WorkersFailed(describe_failures(worker_exceptions)))


def describe_failures(failures: Mapping[int, Exception]) -> str:
    """What happened to which workers, in one line."""
    return ", ".join(f"worker {rank} failed ({first_line(error)})" for rank, error in sorted(failures.items()))
