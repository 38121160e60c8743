"""Records on this machine's disk, from where they go to a server that may be away."""

import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from metaug_ray.tracking.records import Record, from_line, to_line

_log = logging.getLogger(__name__)

_BATCH = 200
_LONGEST_WAIT = 30.0


class RefusedError(Exception):
    """The receiver is there and will never take this record."""


class Journal:
    """Appends records to a file and delivers them in order, from a thread of its own.

    What cannot be written, as where the disk is full, waits in memory until it can be. What cannot be delivered stays
    in the file, and is delivered when the receiver is back or by the next `Journal` of the same file. Nothing is ever
    taken out, so the file is also a record of the whole run. A record may be delivered twice, if this process dies in
    between.

    Args:
        path: of the file; beside it lies a small one that says how much of it was delivered.
        deliver: takes some records; raises `RefusedError` for what it will never take, anything else if it is away.
        receiver: who is delivered to: another one than before gets everything from the beginning.
        wait: seconds to the first repetition after a failure; doubled up to 30.
    """

    def __init__(
        self,
        path: Path,
        deliver: Callable[[Sequence[Record]], None],
        receiver: str = "",
        wait: float = 1.0,
    ) -> None:
        self._path, self._deliver, self._wait = path, deliver, wait
        self._receiver = receiver
        self._left_out: set[bytes] = set()
        self._left_out_once = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._mark = path.with_suffix(".delivered")
        self._file = path.open("ab", buffering=0)
        self._unwritten, self._full, self._unreadable = b"", False, False
        self._repair()
        self._delivered = self._read_mark()
        self._news = threading.Condition()
        self._closing = self._abandoned = False
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def append(self, record: Record) -> None:
        """Keep a record. Never waits for the receiver."""
        with self._news:
            self._unwritten += to_line(record)
            self._write()
            self._news.notify()

    def read(self) -> list[Record]:
        """All records, from the beginning of the run."""
        with self._news:
            content = self._path.read_bytes() + self._unwritten
        return self._records(content.splitlines())

    @property
    def waiting(self) -> int:
        """Number of records that are not delivered yet; 1 at least where the file cannot be read."""
        with suppress(OSError), self._path.open("rb") as file:
            file.seek(self._delivered)
            return (file.read() + self._unwritten).count(b"\n")
        return max(self._unwritten.count(b"\n"), 1)

    def close(self, patience: float) -> int:
        """Stop, after up to `patience` seconds for delivering what is left.

        Returns:
            How many records stay behind; they are kept.
        """
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(patience)
        with self._news:
            self._abandoned = True
            self._news.notify()
        # Ends at once, unless a request is on its way.
        self._thread.join(1.0)
        return self.waiting

    def _run(self) -> None:
        wait, away = self._wait, False
        while not self._abandoned:
            with self._news:
                while not (lines := self._undelivered()):
                    if self._is_over():
                        return
                    self._news.wait(1.0)
                    self._write()
            try:
                self._deliver_all(self._records(lines))
            except Exception as error:
                if not away:
                    reason = str(error).strip().splitlines()
                    _log.warning(
                        "MLflow is away (%s); training goes on, and measurements wait in %s",
                        reason[0][:200] if reason else type(error).__name__,
                        self._path,
                    )
                away = True
                with self._news:
                    # A journal that begins to close tries once more at once, and then every while.
                    self._news.wait_for(partial(self._changed, self._closing), wait)
                    wait = self._wait if self._closing else min(2 * wait, _LONGEST_WAIT)
                continue
            self._delivered += sum(map(len, lines))
            # Without it, what was delivered is delivered again by the next journal.
            with suppress(OSError):
                self._write_mark()
            if away:
                _log.info("MLflow is back; what was measured meanwhile is being sent")
            wait, away = self._wait, False

    def _is_over(self) -> bool:
        return self._abandoned or (self._closing and not self._unwritten and not self._unreadable)

    def _undelivered(self) -> list[bytes]:
        """Some lines that are to be delivered next; none where the file cannot be read now, which may pass."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._delivered)
                lines = [line for line, _ in zip(file, range(_BATCH), strict=False) if line.endswith(b"\n")]
        except OSError as error:
            if not self._unreadable:
                _log.warning("%s cannot be read (%s); measurements wait until it can be", self._path, error)
            self._unreadable = True
            return []
        self._unreadable = False
        return lines

    def _write(self) -> None:
        """Write what is not written yet; a line that the disk took a part of goes on from there."""
        try:
            while self._unwritten:
                written = self._file.write(self._unwritten)
                self._unwritten = self._unwritten[written:]
        except OSError as error:
            if not self._full:
                _log.warning(
                    "%s cannot be written (%s); training goes on, and measurements wait in memory; make room there",
                    self._path,
                    error,
                )
            self._full = True
            return
        if self._full:
            _log.info("%s is written again", self._path)
        self._full = False

    def _records(self, lines: Sequence[bytes]) -> list[Record]:
        """The records of some lines, but for those that cannot be read: a later version's, or a damaged disk's."""
        records = []
        for line in lines:
            try:
                records.append(from_line(line))
            except ValueError as error:
                # Whoever reads and the thread that sends may come upon it at once.
                with self._left_out_once:
                    new = line.rstrip() not in self._left_out
                    self._left_out.add(line.rstrip())
                if new:
                    _log.warning("a line of %s is left out: %s", self._path, error)
        return records

    def _changed(self, was_closing: bool) -> bool:
        return self._abandoned or self._closing != was_closing

    def _deliver_all(self, records: Sequence[Record]) -> None:
        try:
            self._deliver(records)
        except RefusedError as error:
            if len(records) == 1:
                _log.warning("MLflow refused a record, which stays in %s: %s", self._path, error)
                return
            for record in records:
                self._deliver_all([record])

    def _repair(self) -> None:
        """Leave out a last line that a killed process did not finish."""
        whole = self._path.read_bytes().rfind(b"\n") + 1
        if whole != self._path.stat().st_size:
            os.truncate(self._path, whole)

    def _read_mark(self) -> int:
        try:
            mark = json.loads(self._mark.read_text())
            delivered = int(mark["bytes"]) if mark["receiver"] == self._receiver else 0
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        return min(delivered, self._path.stat().st_size)

    def _write_mark(self) -> None:
        partial = self._mark.with_suffix(".partial")
        partial.write_text(json.dumps({"receiver": self._receiver, "bytes": self._delivered}))
        partial.replace(self._mark)
