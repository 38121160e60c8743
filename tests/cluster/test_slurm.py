"""`cluster/slurm`: its scripts as they stand. What they do under a real Slurm, `python -m tests.slurm` shows."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.cluster.documents import ROOT
from tests.cluster.test_docker import lint
from tests.slurm.batch import User
from tests.slurm.machine import MissingError, check_machine, slurm

SLURM = ROOT / "cluster" / "slurm"
JOB = (SLURM / "job.sh").read_text()
NODE = (SLURM / "node.sh").read_text()


def header(text: str) -> dict[str, str]:
    """Options of sbatch in a script, which end at its first command."""
    before = text.partition("\nset -euo pipefail\n")[0]
    return dict(re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", before, re.MULTILINE))


def faults(job: str, node: str) -> list[str]:
    """What would make the batch script lose a run, meet another job, or tell its token."""
    options = header(job)
    found = [f"--{name} is not set" for name in ("requeue", "signal", "time", "ntasks-per-node") if name not in options]
    if options.get("open-mode") != "append":
        found.append("a job that is queued again would overwrite its log")
    told = re.fullmatch(r"B:TERM@(\d+)", options.get("signal", ""))
    if told is None:
        found.append("--signal would not tell the script alone: it would end Ray under its command")
    elif int(told[1]) < _default(job, "STOP_SECONDS") + 20:
        found.append("Slurm would end the job before its command may end")
    offsets = [int(offset) for offset in re.findall(r"CLUSTER_PORT \+ (\d+)", job + node)]
    base, jobs, each = (int(number) for number in re.findall(r"CLUSTER_PORT=\$\(\((\d+) .* % (\d+) \* (\d+)", job)[0])
    if max(offsets) >= each or base + jobs * each > 32768:
        found.append("ports of two jobs, or of the kernel's choice, would meet")
    if "--min-worker-port=0 --max-worker-port=0" not in node:
        found.append("workers of two jobs on a node would take the same ports")
    # A token may be written and removed; whoever needs it gets the name of its file.
    if re.search(r"\$\((cat|<) [^)]*token|RAY_AUTH_TOKEN=", job + node) or "umask 077" not in job:
        found.append("the token would be told")
    found += [f"`{word}` ends what others started" for word in ("ray stop", "pkill", "killall") if word in job + node]
    read = set(re.findall(r"\bCLUSTER_[A-Z_]+", node))
    return found + [f"{name} is not exported to the nodes" for name in sorted(read - _exported(job))]


def _default(job: str, name: str) -> int:
    return int(re.findall(rf"CLUSTER_{name}=\$\{{CLUSTER_{name}:-(\d+)\}}", job)[0])


def _exported(job: str) -> set[str]:
    lines = re.findall(r"^ *export (.*)", job, re.MULTILINE)
    return {name for line in lines for name in re.findall(r"\b(CLUSTER_[A-Z_]+)(?:=| )", line)}


def test_the_batch_script_is_whole() -> None:
    assert not faults(JOB, NODE)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("#SBATCH --requeue\n", "", "--requeue is not set"),
        ("#SBATCH --open-mode=append\n", "", "overwrite its log"),
        ("#SBATCH --signal=B:TERM@120\n", "#SBATCH --signal=TERM@120\n", "the script alone"),
        ("#SBATCH --signal=B:TERM@120\n", "#SBATCH --signal=B:TERM@100\n", "before its command may end"),
        ("CLUSTER_STOP_SECONDS:-90", "CLUSTER_STOP_SECONDS:-110", "before its command may end"),
        ("% 1200 * 10", "% 1200 * 2", "would meet"),
        ("% 1200 * 10", "% 1300 * 10", "would meet"),
        ("umask 077 && ", "", "would be told"),
        ("unset RAY_AUTH_TOKEN", 'export RAY_AUTH_TOKEN="$(cat "$CLUSTER_STATE/token")"', "would be told"),
        ('rm -f "$CLUSTER_STATE/token"', "ray stop", "what others started"),
        ("export CLUSTER_TEMP=", "CLUSTER_TEMP=", "CLUSTER_TEMP is not exported"),
        # Slurm reads over what comes after the first command.
        ("#SBATCH --requeue\n#SBATCH", "set -euo pipefail\n#SBATCH --requeue\n#SBATCH", "--requeue is not set"),
    ],
)
def test_a_planted_fault_is_found(old: str, new: str, said: str) -> None:
    assert old in JOB
    assert said in "\n".join(faults(JOB.replace(old, new), NODE))


@pytest.mark.parametrize("script", sorted((ROOT / "cluster").rglob("*.sh")), ids=lambda file: file.name)
def test_scripts_pass_their_linter(script: Path, tmp_path: Path) -> None:
    assert not lint("shellcheck", script).stdout
    assert os.access(script, os.X_OK)
    planted = tmp_path / "planted.sh"
    planted.write_text(f"{script.read_text()}rm -r $1\n")
    assert "SC2086" in lint("shellcheck", planted).stdout


def test_worker_ports_are_of_the_kernels_choice() -> None:
    assert "the same ports" in "\n".join(faults(JOB, NODE.replace("--min-worker-port=0", "")))


def test_the_page_lists_each_setting_with_its_default() -> None:
    page = (SLURM / "README.md").read_text()
    listed = set(re.findall(r"^\| `(CLUSTER_[A-Z_]+)`", page, re.MULTILINE))
    assert listed == set(re.findall(r"^(?:export )?(CLUSTER_[A-Z_]+)=\$\{", JOB, re.MULTILINE))
    for name in ("JOIN_SECONDS", "STOP_SECONDS", "MAX_REQUEUES"):
        assert re.search(rf"^\| `CLUSTER_{name}` .* \| {_default(JOB, name)} \|$", page, re.MULTILINE), name


@pytest.mark.parametrize(
    ("command", "said"),
    [([], "no command; give one after the script"), (["true"], "runs inside a Slurm job alone; start it with sbatch")],
)
def test_outside_of_slurm_it_says_what_to_do(command: list[str], said: str) -> None:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    ended = subprocess.run(["bash", SLURM / "job.sh", *command], env=outside, capture_output=True, text=True)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_real_slurm_of_one_node_tells_a_job_that_there_is_no_ray() -> None:
    try:
        check_machine()
    except MissingError as error:
        pytest.skip(str(error))
    with tempfile.TemporaryDirectory(prefix="metaug-slurm-", dir="/var/tmp") as folder:
        try:
            with slurm(Path(folder), 1) as made:
                job = User(made, Path(folder) / "home").submit(["--nodes=1"], ["true"], CLUSTER_ENVIRONMENT="/nowhere")
                job.wait_for_state("FAILED")
                assert job.end() == "JobState=FAILED ExitCode=1:0 Restarts=0"
                assert "there is no Ray in /nowhere; run uv sync in the repository" in job.output
                assert not (Path(folder) / "home").exists()
        except MissingError as error:
            pytest.skip(str(error))
