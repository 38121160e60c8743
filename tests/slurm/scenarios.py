"""What can happen to a job under Slurm, each with what its user sees."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from tests.slurm.batch import Batch, UnexpectedError, User, left_on_nodes
from tests.training.small import tensors_of

EPOCHS: Final = 4
_STEPS_PER_EPOCH: Final = 8
_OPTIONS: Final = ["--cpus-per-task=2"]


@dataclass(frozen=True)
class Row:
    """What a scenario came to."""

    slurm: str
    """State, exit status and restarts, as Slurm says them."""
    seen: str
    """What the user sees, and after how long."""
    weights: str = ""
    """Of the run's end, against those of the run that nothing happened to."""


@dataclass(frozen=True)
class Scene:
    """Where scenarios happen."""

    user: User
    beton: Path

    def train(self, name: str, epochs: int = EPOCHS) -> Batch:
        """The main job on two nodes: eight steps an epoch, a checkpoint every five."""
        command = (
            f"python jobs/imagenet_resnet50.py --preset demo --name {name} --data.beton {self.beton} "
            f"--data.image-size 32 --model.small-images --training.batch-size 32 --training.epochs {epochs} "
            "--bank.negatives 64 --health.knn.every 0 --health.log-every 4 --checkpoint.every-steps 5 "
            "--compute.device cpu"
        )
        return self.user.submit(_OPTIONS, command.split())

    def weights(self, name: str, undisturbed: str = "finished", epochs: int = EPOCHS) -> str:
        """How the last checkpoint of a run compares with the undisturbed run's."""
        last = f"checkpoint_{epochs * _STEPS_PER_EPOCH:09d}"
        ours, theirs = (_tensors(self.user.runs / run / last) for run in (name, undisturbed))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
        apart = sum(not torch.equal(ours[name], value) for name, value in theirs.items())
        return f"{len(theirs)} tensors, equal bit for bit" if not apart else f"equal, but {apart} to float tolerance"


def finished(scene: Scene) -> Row:
    job = scene.train("finished")
    joined = job.wait_for("all nodes have joined")
    first = joined + job.wait_for("step 4 ")
    job.wait_for_state("COMPLETED")
    _expect(job, "the command ended with status 0")
    _check_nothing_is_left(job)
    return Row(job.end(), f"nodes joined after {joined:.0f} s, step 4 after {first:.0f} s", "the undisturbed run")


def preempted(scene: Scene) -> Row:
    job = scene.train("preempted")
    job.wait_for("step 12 ")
    other = scene.user.take_all_nodes(seconds=5)
    freed = other.wait_for_state("RUNNING", "COMPLETED")
    _expect(job, "Slurm takes the nodes back")
    went_on = _goes_on(job)
    _check_nothing_is_left(job)
    return Row(
        job.end(),
        f"the other job had the nodes after {freed:.0f} s; went on from step {went_on}",
        scene.weights("preempted"),
    )


def time_is_up(scene: Scene) -> Row:
    # Slurm looks for jobs whose time is nearly up every half a minute: the others are over by then.
    epochs = 40
    undisturbed = scene.train("undisturbed", epochs)
    undisturbed.wait_for_state("COMPLETED")
    job = scene.train("time_is_up", epochs)
    job.wait_for("step 12 ")
    minutes = int(job.shown()["RunTime"].split(":")[1]) + 2
    job.slurm.call("scontrol", "update", f"JobId={job.number}", f"TimeLimit={minutes}")
    job.wait_for("the job is queued again, and goes on")
    job.wait_for_state("PENDING")
    job.slurm.call("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    went_on = _goes_on(job)
    weights = scene.weights("time_is_up", "undisturbed", epochs)
    return Row(job.end(), f"queued again before its time was up; went on from step {went_on}", weights)


def requeued_at_once(scene: Scene) -> Row:
    """As where a partition has no GraceTime: no warning, all processes are ended by Slurm."""
    job = scene.train("requeued")
    job.wait_for("step 12 ")
    job.slurm.call("scontrol", "requeue", job.number)
    went_on = _goes_on(job)
    return Row(job.end(), f"went on from step {went_on}", scene.weights("requeued"))


def drained(scene: Scene) -> Row:
    job, slurm = scene.train("drained"), scene.user.slurm
    job.wait_for("step 4 ")
    slurm.call("scontrol", "update", "NodeName=node2", "State=DRAIN", "Reason=test")
    try:
        job.wait_for("step 12 ")
        if (state := slurm.node_states()["node2"]) != "draining":
            raise UnexpectedError(f"node2 is {state}, not draining")
        # What its administrator or user does to have the node soon.
        slurm.call("scancel", "--batch", "--signal=TERM", job.number)
        went_on = _goes_on(job)
        nodes, state = job.shown()["NodeList"], slurm.node_states()["node2"]
    finally:
        slurm.call("scontrol", "update", "NodeName=node2", "State=RESUME")
    _check_nothing_is_left(job)
    if (nodes, state) != ("node[1,3]", "drained"):
        raise UnexpectedError(f"the job ran on {nodes}, and node2 is {state}")
    seen = f"ran on while node2 was draining; told by scancel, went on from step {went_on} on {nodes}"
    return Row(job.end(), seen, scene.weights("drained"))


def cancelled(scene: Scene) -> Row:
    job = scene.train("cancelled")
    job.wait_for("step 12 ")
    job.slurm.call("scancel", job.number)
    gone = job.wait_for_state("CANCELLED")
    end = job.end()
    _check_nothing_is_left(job)
    again = scene.train("cancelled")
    again.wait_for("goes on from step")
    again.wait_for_state("COMPLETED")
    if job.shown()["JobState"] != "CANCELLED":
        raise UnexpectedError(f"the cancelled job became {job.end()}")
    return Row(
        end, f"cancelled after {gone:.0f} s, not queued again; the same sbatch went on", scene.weights("cancelled")
    )


def failed(scene: Scene) -> Row:
    job = scene.user.submit(_OPTIONS, ["python", "-c", "raise SystemExit(7)"])
    job.wait_for_state("FAILED")
    _expect(job, "the command ended with status 7")
    _check_nothing_is_left(job)
    kept = [path for path in job.slurm.folder.rglob(f"slurm/{job.number}/ray-logs-*/*") if path.is_file()]
    if not kept:
        raise UnexpectedError(f"job {job.number} left no logs of Ray")
    return Row(job.end(), f"the command ended with status 7; {len(kept)} of Ray's logs are kept")


def not_joined(scene: Scene) -> Row:
    # A disk that the second node cannot write to.
    disks = {node: scene.user.slurm.folder / node / "tmp" / "disk" for node in ("node1", "node2")}
    disks["node1"].mkdir()
    disks["node2"].write_text("no folder")
    job = scene.user.submit(["--nodelist=node[1-2]"], ["true"], CLUSTER_LOCAL="/tmp/disk")
    job.wait_for_state("FAILED")
    _check_nothing_is_left(job)
    disks["node2"].unlink()
    # Empty again.
    disks["node1"].rmdir()
    lines = [line for line in job.output.splitlines() if line.startswith("node.sh: node2: CLUSTER_LOCAL: /tmp/disk")]
    if not lines:
        raise UnexpectedError(job.output[-1500:])
    return Row(job.end(), lines[-1])


def two_on_a_node(scene: Scene) -> Row:
    count = "import ray, time; ray.init(log_to_driver=False); print('nodes:', len(ray.nodes())); time.sleep(10)"
    options = ["--nodes=1", "--cpus-per-task=1", "--nodelist=node1"]
    jobs = [scene.user.submit(options, ["python", "-c", count]) for _ in range(2)]
    jobs[0].wait_for("nodes: 1")
    together = jobs[1].shown()["JobState"] == "RUNNING"
    for job in jobs:
        job.wait_for_state("COMPLETED")
        _expect(job, "nodes: 1")
    if not together:
        raise UnexpectedError("the jobs ran one after the other")
    return Row(" and ".join(job.end() for job in jobs), "each has a Ray of one node")


SCENARIOS: Final[dict[str, Callable[[Scene], Row]]] = {
    "finished": finished,
    "preempted": preempted,
    "time-is-up": time_is_up,
    "requeued-at-once": requeued_at_once,
    "drained": drained,
    "cancelled": cancelled,
    "failed": failed,
    "not-joined": not_joined,
    "two-on-a-node": two_on_a_node,
}


def _goes_on(job: Batch) -> int:
    """Waits until a job that is queued again went on and ended; the step that it went on from."""
    job.wait_for("goes on from step")
    job.wait_for_state("COMPLETED")
    restarts = job.shown()["Restarts"]
    if restarts != "1" or job.output.count("goes on from step") != 1:
        raise UnexpectedError(f"{restarts} restarts:\n{job.output[-3000:]}")
    return int(job.output.split("goes on from step ")[1].split()[0].strip(",;.").replace(",", ""))


def _idle(job: Batch) -> bool:
    return set(job.slurm.node_states().values()) == {"idle"}


def _check_nothing_is_left(job: Batch) -> None:
    ended = job.shown()["JobState"]
    # Slurm itself ends, after the script, what the script may have left.
    job.wait_until(lambda: _idle(job) and not left_on_nodes(job.slurm), "the nodes are not empty", (ended,), 60.0)
    if any(job.slurm.folder.rglob("metaug_ray/slurm/*/token")):
        raise UnexpectedError(f"job {job.number} left its token")


def _expect(job: Batch, text: str) -> None:
    if text not in job.output:
        raise UnexpectedError(f"job {job.number} says nothing of {text!r}:\n{job.output[-1500:]}")


def _tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    with tempfile.TemporaryDirectory() as scratch:
        found = tensors_of(checkpoint, Path(scratch) / "tensors")
    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if not any("/encoder/" in name for name in tensors):
        raise UnexpectedError(f"{checkpoint} has no encoder")
    return tensors
