import io
import signal
import sys
import time
from collections.abc import Callable

import pytest

from metaug_ray.commands.base import CommandError, run_command
from metaug_ray.errors import UserError


def raising(error: BaseException) -> Callable[[object], None]:
    def run(_: object) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("run", "status", "said"),
    [
        (lambda _: None, 0, ""),
        (raising(UserError("no such file: x; give another")), 1, "job.py: no such file: x; give another\n"),
        (raising(KeyboardInterrupt()), 130, "job.py: interrupted; it goes on\n"),
        (lambda _: signal.raise_signal(signal.SIGTERM), 130, "job.py: interrupted; it goes on\n"),
    ],
)
def test_each_end_has_its_status_and_sentence(
    run: Callable[[object], None], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("job.py", object, run, "it goes on") == status
    assert capsys.readouterr().err == said


def test_wrong_arguments_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    def parse() -> object:
        raise CommandError("beta: got 0")

    assert run_command("job.py", parse, lambda _: None, "") == 2
    assert capsys.readouterr().err == "job.py: beta: got 0\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_in_a_callback_is_not_lost(number: signal.Signals) -> None:
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(number)

    reached = []

    def run(_: object) -> None:
        dying = Dying()
        del dying  # Python drops what is raised here
        reached.append("after it")
        time.sleep(10)
        reached.append("to the end")

    assert run_command("job.py", object, run, "it goes on") == 130
    assert reached == ["after it"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_name_that_the_terminal_cannot_show_ends_no_command(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    written = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(written, encoding))
    assert run_command("job.py", object, lambda _: print("猫 caf\udce9"), "") == 0
    sys.stdout.flush()
    assert written.getvalue() == {"ascii": b"\\u732b caf\\udce9\n", "utf-8": "猫 caf\\udce9\n".encode()}[encoding]
