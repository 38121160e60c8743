"""Stands in for the pages' programs while their commands run: calls this interpreter, and keeps a record.

Commands that the table names are recorded and not run. Servers are started in the background, and left to the test.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from tests.docs.table import NOT_RUN, SERVERS

RECORD = "DOCS_RECORD"
"""Variable that names the file of records, a line of JSON for each command."""


def main(program: str, arguments: list[str]) -> int:
    command = " ".join([program, *arguments])
    record: dict[str, Any] = {
        "argv": [program, *arguments],
        "environment": {name: value for name, value in os.environ.items() if name.startswith("METAUG_")},
        "pattern": next((pattern for pattern in (*NOT_RUN, *SERVERS) if fnmatchcase(command, pattern)), None),
        "run": True,
    }
    began = time.monotonic()
    if record["pattern"] in NOT_RUN:
        record["run"] = False
        status = 0
    elif program != "uv" or arguments[0] != "run":
        print(f"{command}: the tests run `uv run` only; name it in tests/docs/table.py", file=sys.stderr)
        return 1
    elif record["pattern"] in SERVERS:
        status = _serve(arguments[1:], SERVERS[record["pattern"]], record)
    else:
        status = _run(arguments[1:])
    record |= {"status": status, "seconds": round(time.monotonic() - began, 1)}
    with Path(os.environ[RECORD]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return status


def write_stand_ins(folder: Path) -> None:
    """Put programs named `uv`, `make`, `docker`, `kubectl` and `sbatch` into a folder, for PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for program in ("uv", "make", "docker", "kubectl", "sbatch"):
        file = folder / program
        file.write_text(f'#!/bin/sh\nexec {sys.executable} -S {Path(__file__).resolve()} {program} "$@"\n')
        file.chmod(0o755)


def _run(command: list[str]) -> int:
    return subprocess.run(_as_here(command), env=_environment()).returncode


def _as_here(command: list[str]) -> list[str]:
    """What `uv run` would start, of this interpreter's environment."""
    return [str(Path(sys.executable).parent / command[0]), *command[1:]]


def _environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def _serve(command: list[str], url: str, record: dict[str, Any]) -> int:
    with Path(os.environ[RECORD]).with_name("server.log").open("w") as output:
        server = subprocess.Popen(
            _as_here(command), env=_environment(), stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    record["server"] = server.pid
    for _ in range(600):
        time.sleep(0.2)
        if server.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return 0
        except OSError:
            continue
    server.kill()
    print(Path(output.name).read_text(), file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
