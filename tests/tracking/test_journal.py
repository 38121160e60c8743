import time
from collections.abc import Callable
from pathlib import Path

import pytest

from metaug_ray.tracking.journal import Journal, Record, RefusedError


class Receiver:
    """Takes records, unless it is away."""

    def __init__(self) -> None:
        self.away = False
        self.taken: list[Record] = []
        self.said: list[str] = []

    def deliver(self, records: list[Record]) -> None:
        if self.away:
            raise ConnectionError("nobody listens\nat all")
        for record in records:
            if record.get("bad"):
                raise RefusedError("no such thing")
        self.taken += records

    def open(self, path: Path, name: str = "") -> Journal:
        return Journal(path, self.deliver, self.said.append, name, wait=0.02)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


def test_delivers_in_order(receiver: Receiver, tmp_path: Path) -> None:
    journal = receiver.open(tmp_path / "j.jsonl")
    records = [{"n": n} for n in range(1000)]
    for record in records:
        journal.append(record)
    assert journal.close(10) == 0
    assert receiver.taken == records == journal.read()
    assert receiver.said == []


def test_what_was_measured_while_it_is_away_arrives_later(receiver: Receiver, tmp_path: Path) -> None:
    journal = receiver.open(tmp_path / "j.jsonl")
    journal.append({"n": 0})
    until(lambda: receiver.taken == [{"n": 0}])
    receiver.away = True
    began = time.monotonic()
    for n in range(1, 500):
        journal.append({"n": n})
    assert time.monotonic() - began < 1  # no step waits
    until(lambda: bool(receiver.said))
    assert receiver.said[0].startswith("MLflow is away (nobody listens); training goes on, and measurements wait in")
    assert journal.waiting == 499
    receiver.away = False
    until(lambda: len(receiver.taken) == 500)
    assert receiver.taken == [{"n": n} for n in range(500)]
    until(lambda: len(receiver.said) == 2)
    assert "MLflow is back" in receiver.said[1]
    assert journal.close(10) == 0


def test_the_next_start_delivers_what_is_left_and_nothing_twice(receiver: Receiver, tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    first = receiver.open(path)
    first.append({"n": 0})
    until(lambda: receiver.taken == [{"n": 0}])
    receiver.away = True
    first.append({"n": 1})
    assert first.close(0.2) == 1
    # A process killed while it wrote a line leaves half of one.
    with path.open("ab") as file:
        file.write(b'{"n": 2, "hal')
    receiver.away = False
    second = receiver.open(path)
    second.append({"n": 3})
    assert second.close(10) == 0
    assert receiver.taken == [{"n": 0}, {"n": 1}, {"n": 3}] == second.read()


def test_another_receiver_gets_everything(receiver: Receiver, tmp_path: Path) -> None:
    records = [{"n": n} for n in range(3)]
    first = receiver.open(tmp_path / "j.jsonl", "one")
    for record in records:
        first.append(record)
    assert first.close(10) == 0
    assert receiver.open(tmp_path / "j.jsonl", "one").close(10) == 0
    assert receiver.taken == records
    assert receiver.open(tmp_path / "j.jsonl", "two").close(10) == 0
    assert receiver.taken == records + records


def test_what_is_refused_does_not_stop_the_rest(receiver: Receiver, tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    receiver.away = True
    journal = receiver.open(path)
    for n in range(5):
        journal.append({"n": n, "bad": n == 2})
    receiver.away = False
    assert journal.close(10) == 0
    assert [record["n"] for record in receiver.taken] == [0, 1, 3, 4]
    assert any("MLflow refused a record" in sentence for sentence in receiver.said)
