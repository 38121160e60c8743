"""A process that watches over its work: real processes, which are killed."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from metaug_ray.errors import TEMPORARY

_PROGRAM = """
    import os, signal, sys, time
    from pathlib import Path
    from metaug_ray.commands.base import run_command
    from metaug_ray.errors import LostError, NotBegunError, UserError
    from metaug_ray.runtime import parent
    parent._PAUSE = 0.2
    here = Path(sys.argv[1])

    def note(name):
        with (here / name).open("a") as file:
            file.write(f"{os.getpid()}\\n")

    def work(begun):
        note("began")
        # BODY
        return 0

    restarts = parent.Restarts(int(sys.argv[2]), sys.argv[3] or None, lambda: note("lost"))
    sys.exit(run_command("program", lambda: None, lambda _: parent.watched(work, restarts), "give it again"))
"""


class Program:
    """What a user starts: its work is `body`."""

    def __init__(
        self, folder: Path, body: str, restarts: int = 0, address: str = "", launcher: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder
        indented = textwrap.indent(textwrap.dedent(body).strip(), "    ")
        code = textwrap.dedent(_PROGRAM).replace("    # BODY", indented)
        self.process = subprocess.Popen(
            [*launcher, sys.executable, "-c", code, str(folder), str(restarts), address],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def noted(self, name: str) -> list[int]:
        """Processes that came to a place."""
        file = self.folder / name
        return [int(line) for line in file.read_text().split()] if file.exists() else []

    def working(self, place: str = "began") -> int:
        """The process that works, once it has come to a place."""
        end = time.monotonic() + 20
        while not self.noted(place):
            assert time.monotonic() < end
            time.sleep(0.01)
        return self.noted(place)[-1]

    def finish(self) -> tuple[int, str]:
        said, _ = self.process.communicate(timeout=30)
        return self.process.returncode, said


def test_the_status_of_the_work_is_that_of_the_command(tmp_path: Path) -> None:
    program = Program(tmp_path, "return 3")
    assert program.finish() == (3, "")
    assert program.noted("began") != [program.process.pid]
    assert not program.noted("lost")


def test_what_failed_in_order_does_not_begin_again(tmp_path: Path) -> None:
    program = Program(tmp_path, "raise UserError('no such file')", restarts=5)
    assert program.finish() == (1, "program: no such file\n")
    assert len(program.noted("began")) == 1
    bug = Program(tmp_path, "raise KeyError('bug')", restarts=5)
    status, said = bug.finish()
    assert (status, said.splitlines()[-1]) == (1, "KeyError: 'bug'")
    assert len(bug.noted("began")) == 2


def test_what_was_killed_begins_again(tmp_path: Path) -> None:
    program = Program(tmp_path, "begun < 2 and os.kill(os.getpid(), signal.SIGKILL)", restarts=2)
    status, said = program.finish()
    assert status == 0
    assert len(program.noted("began")) == 3
    assert len(program.noted("lost")) == 2
    assert said.count("the driver was ended by SIGKILL, as Linux does where memory runs out; it begins again") == 2
    assert "up to 1 time " in said


def test_what_is_lost_for_good_says_what_to_do(tmp_path: Path) -> None:
    # As Ray's core does when its cluster is gone.
    program = Program(tmp_path, "os._exit(1)")
    status, said = program.finish()
    assert status == TEMPORARY
    assert "Ray ended the driver (exit status 1), as it does when its cluster is gone; the same command goes on" in said
    assert len(program.noted("lost")) == 1


def test_a_cluster_that_was_lost_is_waited_for(tmp_path: Path) -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{reserved.getsockname()[1]}"
    program = Program(tmp_path, "if begun == 0: raise LostError('the cluster is gone')", restarts=1, address=address)
    assert program.process.stdout is not None
    said = ""
    while "waiting for a cluster" not in said:
        said += program.process.stdout.readline()
    assert len(program.noted("began")) == 1
    with socket.create_server(("127.0.0.1", int(address.rpartition(":")[2]))):
        assert program.finish()[0] == 0
    assert len(program.noted("began")) == 2
    assert "program: the cluster is gone" in said
    # The work said what happened, and told MLflow itself.
    assert not program.noted("lost")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_reaches_the_work_once(tmp_path: Path, number: signal.Signals) -> None:
    body = """
        try:
            note("amid")
            time.sleep(20)
        except KeyboardInterrupt:
            time.sleep(0.5)
            note("cleaned")
            raise
    """
    program = Program(tmp_path, body, restarts=3)
    working = program.working("amid")
    # As `ray job stop` does: the command, and all that is below it.
    for process in (working, program.process.pid):
        os.kill(process, number)
    assert program.finish() == (130, "program: interrupted; give it again\n")
    assert program.noted("cleaned") == [working]
    assert not program.noted("lost")


def test_a_signal_to_the_whole_group_leaves_the_works_own_processes_to_the_work(tmp_path: Path) -> None:
    """As `timeout` and a terminal send it. The work has to be asked first, as Ray's processes are its own."""
    program = Program(
        tmp_path,
        """
        import subprocess
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        note("ready")
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            time.sleep(0.3)
            print("helper", "ended" if helper.poll() is not None else "works", flush=True)
            helper.kill()
        """,
        launcher=("setsid",),
    )
    program.working("ready")
    os.killpg(program.process.pid, signal.SIGTERM)
    assert program.finish() == (0, "helper works\n")


def test_the_work_dies_with_its_command(tmp_path: Path) -> None:
    program = Program(tmp_path, "time.sleep(60)")
    working = psutil.Process(program.working())
    program.process.kill()
    program.process.wait()
    working.wait(5)
    assert not working.is_running()


def test_an_interruption_ends_the_wait(tmp_path: Path) -> None:
    program = Program(tmp_path, "os._exit(1)", restarts=9, address="127.0.0.1:1")
    assert program.process.stdout is not None
    while "waiting for a cluster" not in program.process.stdout.readline():
        pass
    program.process.terminate()
    assert program.finish()[0] == 130


def test_what_was_told_to_end_does_not_begin_again_where_it_is_lost_meanwhile(tmp_path: Path) -> None:
    # As where the cluster is gone, and Ray's core ends the driver while it ends by itself.
    body = """
        signal.signal(signal.SIGTERM, lambda *_: os._exit(1))
        note("amid")
        time.sleep(20)
    """
    program = Program(tmp_path, body, restarts=5)
    program.working("amid")
    program.process.terminate()
    status, said = program.finish()
    assert status == 130
    assert "it was told to end" in said
    assert len(program.noted("began")) == len(program.noted("lost")) == 1


def test_what_is_not_there_yet_uses_no_beginning_up(tmp_path: Path) -> None:
    body = """
        if begun == 0: os._exit(1)
        if len((here / "began").read_text().split()) < 4: raise NotBegunError("no nodes yet")
    """
    program = Program(tmp_path, body, restarts=1)
    status, said = program.finish()
    assert status == 0
    assert said.count("program: no nodes yet") == 2
    assert len(program.noted("began")) == 4


def test_it_hears_of_its_work_where_its_launcher_ignored_the_ends_of_children(tmp_path: Path) -> None:
    program = Program(tmp_path, "return 3", launcher=("env", "--ignore-signal=CHLD"))
    assert program.finish() == (3, "")


@pytest.mark.skipif(os.getuid() != 0, reason="a namespace of processes takes root")
def test_a_signal_from_outside_its_container_reaches_the_work(tmp_path: Path) -> None:
    body = """
        try:
            note("amid")
            time.sleep(20)
        except KeyboardInterrupt:
            note("cleaned")
            raise
    """
    program = Program(tmp_path, body, launcher=("unshare", "--pid", "--fork", "--kill-child"))
    program.working("amid")
    (command,) = psutil.Process(program.process.pid).children()
    command.terminate()
    assert program.finish()[1] == "program: interrupted; give it again\n"
    assert len(program.noted("cleaned")) == 1
