"""A process that compiles beside the checks, and measures when it is its turn."""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]

ANSWER: Final = "ANSWER "
"""What a line of a child that is meant for its parent begins with."""


class ChildError(Exception):
    """A child ended without its answer."""


class Child:
    """`python -m tests.gpu.compiling NAME`: it answers once when it has compiled, and once more when it was told to go.

    Args:
        name: of what to compile.
        options: for the command line.
        log: file that takes all else that it writes.
    """

    def __init__(self, name: str, options: list[str], log: Path) -> None:
        self._log = log
        with log.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.gpu.compiling", name, *options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                cwd=ROOT,
                # Some compile at a time, and the checks beside them need a core too.
                env=os.environ | {"TORCHINDUCTOR_COMPILE_THREADS": "4"},
                # A group of its own, so that the processes that it compiles in end with it.
                start_new_session=True,
            )
        self._answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """The next answer; None if there is none yet after so many seconds.

        Raises:
            ChildError: the process has ended.
        """
        try:
            answer = self._answers.get(timeout=min(max(0.0, seconds), threading.TIMEOUT_MAX))
        except queue.Empty:
            return None
        if answer is None:
            lines = self._log.read_text(encoding="utf-8").strip().splitlines()
            # Hints come after the error.
            said = next((line for line in reversed(lines) if "Error" in line), "no message")
            raise ChildError(f"{said} (more in {self._log.name})")
        return answer

    def go(self) -> None:
        """Let it measure."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(ANSWER):
                self._answers.put(json.loads(line.removeprefix(ANSWER)))
        self._answers.put(None)
