"""What workers and Ray Train's controller tell the driver."""

from typing import Any

from ray.util.queue import Queue


def post(queue: Queue, kind: str, **content: Any) -> Any:
    """Send a message without waiting until it is taken.

    Args:
        queue: to the driver.
        kind: `metrics` (step, values), `histograms` (step, values), `note` (text), `checkpoint` (name, step,
            accuracy or None), or `failure` (text).
        content: by kind.

    Returns:
        A reference to wait for where the message must not be lost.
    """
    return queue.actor.put_nowait.remote({"kind": kind, **content})
