"""Encoding in parallel processes. They import this module, so it imports neither torch nor FFCV."""

import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor

from metaug_ray.data.encoding import EncodedImage, Encoding, Unreadable, encode
from metaug_ray.data.sources.record import Record

_CHUNK = 32  # records sent at once


def encode_all(records: Iterable[Record], encoding: Encoding, workers: int) -> Iterator[EncodedImage | Unreadable]:
    """Encodes records in `workers` processes and yields the results in order, a few chunks ahead of the one asked for.

    Raises:
        BrokenProcessPool: a worker was killed or could not start.
    """
    # Spawned, not forked: the copy of a process that runs threads (torch, numba) may hang.
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start_worker)
    pending: deque[Future[list[EncodedImage | Unreadable]]] = deque()
    try:
        for start, chunk in _chunks(records):
            pending.append(pool.submit(_encode_chunk, start, chunk, encoding))
            if len(pending) > 4 * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _encode_chunk(start: int, chunk: list[Record], encoding: Encoding) -> list[EncodedImage | Unreadable]:
    return [encode(start + offset, record, encoding) for offset, record in enumerate(chunk)]


def _chunks(records: Iterable[Record]) -> Iterator[tuple[int, list[Record]]]:
    remaining = iter(records)
    for start in itertools.count(step=_CHUNK):
        chunk = list(itertools.islice(remaining, _CHUNK))
        if not chunk:
            return
        yield start, chunk


def _start_worker() -> None:
    """Ctrl-C is the parent's to handle, and a worker whose parent was killed ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.join,), daemon=True).start()


def _end_with(wait: Callable[[], None]) -> None:
    wait()
    os._exit(1)
