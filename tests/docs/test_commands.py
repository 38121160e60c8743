"""The README's and docs' commands, run as they stand, from the first page to the last, on small data.

Nothing in the text is changed. Commands are scaled down by variables of the environment and by small files where the
pages have large ones; what even so cannot run here stands in `table.py`, with the reason, and has its options parsed.
"""

import json
import os
import runpy
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.cluster.documents import project
from tests.data.images import image_tree, picture
from tests.docs.pages import PAGES, ROOT, blocks
from tests.docs.stand_in import RECORD, write_stand_ins
from tests.docs.table import NOT_RUN, RUN_BY_TESTS, SERVERS

pytestmark = pytest.mark.slow

SMALL = {
    "METAUG_WORKERS": "1",
    # Eight steps on one worker, in place of 768 on two.
    "METAUG_COMPUTE__DEVICE": "cpu",
    "METAUG_COMPUTE__WORKERS": "1",
    "METAUG_COMPUTE__CPUS_PER_WORKER": "1",
    "METAUG_TRAINING__EPOCHS": "1",
    "METAUG_TRAINING__SCHEDULE__WARMUP_EPOCHS": "0",
    "METAUG_TRAINING__BATCH_SIZE": "256",
    "METAUG_DATA__IMAGE_SIZE": "64",
    "METAUG_BANK__INITIAL": "random",
    "METAUG_HEALTH__KNN__EVERY": "0",
    "METAUG_PROBE__EPOCHS": "1",
    "METAUG_PROBE__LEAST_STEPS": "10",
    "METAUG_PROBE__SEEDS": "1",
    "METAUG_PROBE__LABEL_SHARES": "[1.0]",
    "METAUG_PLOTS": "false",
    "METAUG_VIEWS": "false",
}
"""What each command reads of its settings, where its options do not say otherwise."""

TOOLS = ("bash", "cat", "curl", "grep", "head", "ls", "mkdir", "rm", "sha256sum", "tail")
"""Programs that blocks may use besides those that the stand-ins stand for."""

TOOLS_OF_SCRIPTS = ("chmod", "dirname", "mv", "od", "tr")
"""What the repository's own scripts use besides."""


@dataclass
class Session:
    """A reader's terminal: a folder like the repository's, a home, and a Ray cluster."""

    folder: Path
    environment: dict[str, str]
    done: set[str] = field(default_factory=set)

    def run(self, text: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["bash", "-euo", "pipefail", "-c", text],
                cwd=self.folder / "repository",
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=500,  # the README's block takes 100 s on a quiet machine, 280 beside all other tests
            )
        except subprocess.TimeoutExpired as error:
            said = error.output.decode() if isinstance(error.output, bytes) else error.output
            pytest.fail(f"no end within {error.timeout:.0f} s:\n{text}\n{said}")

    def records(self) -> list[dict[str, Any]]:
        file = Path(self.environment[RECORD])
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    _check_port_is_free(5001)
    folder = tmp_path_factory.mktemp("docs")
    _lay_out(folder)
    inherited = {
        "HOME": str(folder / "home"),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "RAY_AUTH_MODE": "disabled",
        # Reports wait for Ray Train's controller to look, every two seconds by default.
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    }
    environment = (
        SMALL
        | inherited
        | {
            "PATH": str(folder / "bin"),
            "MPLCONFIGDIR": os.environ.get("MPLCONFIGDIR", str(Path.home() / ".config" / "matplotlib")),
            RECORD: str(folder / "records.jsonl"),
        }
    )
    with _cluster(inherited) as address:
        began = Session(folder, environment | {"RAY_ADDRESS": address})
        yield began
        for record in began.records():
            if "server" in record:
                os.killpg(record["server"], signal.SIGTERM)


@contextmanager
def _cluster(environment: dict[str, str]) -> Iterator[str]:
    """Address of a cluster whose workers have the reader's home. In a process of its own: this one may be part of the
    other tests' cluster."""
    begin = (
        "import ray, sys\n"
        "context = ray.init(num_cpus=2, include_dashboard=False, logging_level='ERROR', log_to_driver=False)\n"
        "print(context.address_info['gcs_address'], flush=True)\n"
        "sys.stdin.read()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", begin],
        env=os.environ | environment | {"RAY_ADDRESS": "local"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    # Left, it closes the process's input, at whose end it shuts the cluster down.
    with process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


def _check_port_is_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            pytest.skip(f"something serves on port {port} of this machine, where the pages serve an encoder")


def _lay_out(folder: Path) -> None:
    """The repository's folders that commands name, and small data in place of what the pages have in `../shared`."""
    for part in ("repository", "home", "shared/data/cifar10"):
        (folder / part).mkdir(parents=True)
    for name in ("jobs", "examples"):
        (folder / "repository" / name).symlink_to(ROOT / name)
    # It gets secrets.
    shutil.copytree(ROOT / "docker", folder / "repository" / "docker", ignore=shutil.ignore_patterns("secrets"))
    for split, first in (("train", 0), ("test", 1000)):
        _write_parquet(folder / f"shared/data/cifar10/{split}.parquet", first)
    # Of these, commands name the folders alone.
    for name in ("cifar100", "stl10", "tiny", "imagenet/train", "imagenet/val"):
        (folder / "shared/downloads" / name).mkdir(parents=True)
    image_tree(folder / "shared/data/imagenet_sample", classes=("n01440764", "n01514859"))
    write_stand_ins(folder / "bin")
    for tool in (*TOOLS, *TOOLS_OF_SCRIPTS):
        found = shutil.which(tool, path=os.defpath)
        if found is not None:
            (folder / "bin" / tool).symlink_to(found)


def _write_parquet(file: Path, first: int) -> None:
    """96 images of 32 px in ten classes, in Hugging Face's columns."""
    rows = []
    for number in range(96):
        png = BytesIO()
        Image.fromarray(picture(first + number, 32, 32)).save(png, "PNG")
        rows.append({"image": {"bytes": png.getvalue(), "path": f"{number}.png"}, "label": number % 10})
    pq.write_table(pa.Table.from_pylist(rows), file)


@pytest.mark.parametrize("page", PAGES)
def test_commands_run_as_they_stand(session: Session, page: str) -> None:
    for block in blocks(page, "bash"):
        before = len(session.records())
        ended = session.run(block.text)
        assert ended.returncode == 0, f"{page}, line {block.line}:\n{block.text}\n{ended.stdout}"
        for record in session.records()[before:]:
            if not record["run"]:
                check_options(record, session, f"{page}, line {block.line}")
    session.done.add(page)


def test_every_entry_of_the_table_is_a_command_and_every_example_was_run(session: Session) -> None:
    if session.done != set(PAGES):
        pytest.skip("needs all pages to have passed in this session")
    records = session.records()
    unused = (NOT_RUN.keys() | SERVERS.keys()) - {record["pattern"] for record in records}
    assert not unused, f"no command of any page matches {unused}: take them out of tests/docs/table.py"
    run = {word for record in records if record["run"] for word in record["argv"]}
    examples = {f"examples/{file.name}" for file in (ROOT / "examples").glob("*.py")}
    assert examples - run == RUN_BY_TESTS.keys(), f"no page runs {examples - run}"


def check_options(record: dict[str, Any], session: Session, place: str) -> None:
    """A command that is not run: its program is there and takes its options."""
    program, *arguments = record["argv"]
    said = f"{place}: {shlex.join(record['argv'])}"
    match [program, *arguments]:
        case ["make", *targets]:
            subprocess.run(["/usr/bin/make", "-n", *targets], cwd=ROOT, check=True, capture_output=True)
        case ["uv", "run", "python", "-m", module, *options]:
            path = ROOT / module.replace(".", "/")
            source = (path / "__main__.py" if path.is_dir() else path.with_suffix(".py")).read_text()
            for option in options:
                assert not option.startswith("--") or f'"{option}"' in source, f"{said}: no option {option}"
        case ["uv", "run", "python", "cluster/local/cluster.py", command]:
            assert command in {"start", "stop", "status"}, said
        case ["sbatch", *words]:
            check_files(words, said)
            job = words.index("python") + 1
            check_job(words[job], words[job + 1 :], {}, session, said)
        case ["uv", "run", "python", job, *options]:
            check_job(job, options, record["environment"], session, said)
        case ["uv", "run", "ray", *words]:
            from ray.scripts.scripts import cli

            check_click(cli, words, said)
            if "--" in words:
                check_job(words[words.index("--") + 2], words[words.index("--") + 3 :], {}, session, said)
        case ["uv", "run", "--group", group, "ray", *words]:
            from ray.scripts.scripts import cli

            assert group in project()["dependency-groups"], said
            check_click(cli, words, said)
            check_files(words, said)
        case ["docker" | "kubectl", *words]:
            check_files(words, said)
        case ["uv", "run", "mlflow", *words]:
            from mlflow.cli import cli as mlflow_cli

            check_click(mlflow_cli, words, said)
        case _:
            pytest.fail(f"{said}: tests/docs/test_commands.py does not know how to check this command")


def check_files(words: list[str], said: str) -> None:
    """Files and folders of the repository that a command names are there."""
    for word in words:
        if word.startswith(("docker/", "cluster/")):
            assert (ROOT / word).exists(), f"{said}: there is no {word}"


def check_job(job: str, options: list[str], environment: dict[str, str], session: Session, said: str) -> None:
    """Reads a job's settings from its command line, and does nothing with them."""
    from metaug_ray.commands import base

    def parse(program: str, parsed: Any, run: Any, interrupted: str) -> int:
        parsed()
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "run_command", parse)
        patch.setattr(sys, "argv", [job, *options])
        patch.chdir(session.folder / "repository")
        for name, value in environment.items():
            patch.setenv(name, value)
        try:
            runpy.run_path(job, run_name="__main__")
        except SystemExit as ended:
            status = ended.code
        except base.CommandError as error:
            pytest.fail(f"{said}: {error}")
    assert status == 0, said


def check_click(command: Any, words: list[str], said: str) -> None:
    """Follows the subcommands down and parses the options of the last."""
    import click

    words = list(words)
    context = None
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command, parent=context), words[0])
        assert found is not None, f"{said}: no command {words[0]}"
        command = found
        words.pop(0)
    try:
        command.make_context(command.name, words, resilient_parsing=False)
    except click.ClickException as error:
        pytest.fail(f"{said}: {error.format_message()}")
