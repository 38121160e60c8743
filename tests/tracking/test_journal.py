import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from metaug_ray.tracking.journal import Journal, RefusedError
from metaug_ray.tracking.records import Record, Tags, to_line
from tests.log import Log


def record(n: int, **more: str) -> Tags:
    return Tags({"n": str(n), **more})


class Receiver:
    """Takes records, unless it is away."""

    def __init__(self) -> None:
        self.away = False
        self.taken: list[Record] = []

    def deliver(self, records: Sequence[Record]) -> None:
        if self.away:
            raise ConnectionError("nobody listens\nat all")
        for record in records:
            if isinstance(record, Tags) and "bad" in record.values:
                raise RefusedError("no such thing")
        self.taken += records

    def open(self, path: Path, name: str = "") -> Journal:
        return Journal(path, self.deliver, name, wait=0.02)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


def test_delivers_in_order(receiver: Receiver, tmp_path: Path, log: Log) -> None:
    journal = receiver.open(tmp_path / "j.jsonl")
    records = [record(n) for n in range(1000)]
    for entry in records:
        journal.append(entry)
    assert journal.close(10) == 0
    assert receiver.taken == records == journal.read()
    assert not log.messages


def test_what_was_measured_while_it_is_away_arrives_later(receiver: Receiver, tmp_path: Path, log: Log) -> None:
    journal = receiver.open(tmp_path / "j.jsonl")
    journal.append(record(0))
    until(lambda: receiver.taken == [record(0)])
    receiver.away = True
    began = time.monotonic()
    for n in range(1, 500):
        journal.append(record(n))
    assert time.monotonic() - began < 1  # no step waits
    until(lambda: bool(log.messages))
    assert log.messages[0].startswith("MLflow is away (nobody listens); training goes on, and measurements wait in")
    assert journal.waiting == 499
    receiver.away = False
    until(lambda: len(receiver.taken) == 500)
    assert receiver.taken == [record(n) for n in range(500)]
    until(lambda: len(log.messages) == 2)
    assert "MLflow is back" in log.messages[1]
    assert journal.close(10) == 0


def test_the_next_start_delivers_what_is_left_and_nothing_twice(receiver: Receiver, tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    first = receiver.open(path)
    first.append(record(0))
    until(lambda: receiver.taken == [record(0)])
    receiver.away = True
    first.append(record(1))
    assert first.close(0.2) == 1
    # A process killed while it wrote a line leaves half of one.
    with path.open("ab") as file:
        file.write(b'{"n": 2, "hal')
    receiver.away = False
    second = receiver.open(path)
    second.append(record(3))
    assert second.close(10) == 0
    assert receiver.taken == [record(0), record(1), record(3)] == second.read()


def test_another_receiver_gets_everything(receiver: Receiver, tmp_path: Path) -> None:
    records = [record(n) for n in range(3)]
    first = receiver.open(tmp_path / "j.jsonl", "one")
    for entry in records:
        first.append(entry)
    assert first.close(10) == 0
    assert receiver.open(tmp_path / "j.jsonl", "one").close(10) == 0
    assert receiver.taken == records
    assert receiver.open(tmp_path / "j.jsonl", "two").close(10) == 0
    assert receiver.taken == records + records


def test_what_a_full_disk_does_not_take_waits_in_memory(receiver: Receiver, tmp_path: Path, log: Log) -> None:
    path = tmp_path / "j.jsonl"
    journal = receiver.open(path)
    # So large that no other file of this process meets the limit below.
    records = [record(n, text="x" * 10_000) for n in range(100)]
    for entry in records[:98]:
        journal.append(entry)
    until(lambda: receiver.taken == records[:98])
    size, limits = path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))
    try:
        for entry in records[98:]:
            journal.append(entry)
        assert path.stat().st_size == size + 100
        assert journal.read() == records
        assert journal.waiting == 2
        assert receiver.taken == records[:98]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    until(lambda: receiver.taken == records)
    assert journal.close(10) == 0
    assert path.read_bytes() == b"".join(map(to_line, records))
    assert [message for message in log.messages if "measurements wait in memory; make room there" in message]
    assert len(log.messages) == 2


def test_a_file_that_cannot_be_read_for_a_while_ends_nothing(receiver: Receiver, tmp_path: Path, log: Log) -> None:
    path, aside = tmp_path / "j.jsonl", tmp_path / "aside"
    journal = receiver.open(path)
    path.rename(aside)
    journal.append(record(0))
    until(lambda: bool(log.messages))
    assert "cannot be read" in log.messages[0]
    assert "measurements wait until it can be" in log.messages[0]
    assert journal.waiting == 1
    aside.rename(path)
    journal.append(record(1))
    until(lambda: receiver.taken == [record(0), record(1)])
    assert journal.close(10) == 0


def test_what_is_refused_does_not_stop_the_rest(receiver: Receiver, tmp_path: Path, log: Log) -> None:
    path = tmp_path / "j.jsonl"
    receiver.away = True
    journal = receiver.open(path)
    for n in range(5):
        journal.append(record(n, **({"bad": "yes"} if n == 2 else {})))
    receiver.away = False
    assert journal.close(10) == 0
    assert receiver.taken == [record(n) for n in (0, 1, 3, 4)]
    assert any("MLflow refused a record" in sentence for sentence in log.messages)


def test_a_line_that_cannot_be_read_is_left_out(receiver: Receiver, tmp_path: Path, log: Log) -> None:
    path = tmp_path / "j.jsonl"
    path.write_bytes(
        to_line(record(0))
        + b'{"kind": "of a later version"}\nno record at all\n5\n{"kind": "tags"}\n'
        + to_line(record(1))
    )
    with path.open("ab") as file:
        file.write(b'{"kind": "tags", "values": {"n": "2"}, "more": "of a later version"}\n')
    journal = receiver.open(path)
    assert journal.read() == journal.read() == [record(0), record(1), record(2)]
    assert journal.close(10) == 0
    assert receiver.taken == [record(0), record(1), record(2)]
    assert len(log.messages) == 4  # each once
    assert any("a record of the kind 'of a later version', which this version" in line for line in log.messages)
