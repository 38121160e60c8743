"""Which commands of the pages this machine does not run, and why. Imported by the stand-in, so it imports nothing."""

from typing import Final

TRAIN: Final = "uv run python jobs/imagenet_resnet50.py"

EVALUATE: Final = "uv run python jobs/evaluate_encoder.py"

NOT_RUN: Final[dict[str, str]] = {
    "make demo": "It installs system packages and takes five minutes; the README's block trains with the same preset.",
    "make test": "It runs this very test.",
    "uv run ray get-auth-token *": "It would write a token into the home of whoever runs the tests.",
    "uv run ray start *": "The cluster would outlive the tests.",
    "uv run ray job submit *": "It needs the cluster that `ray start --head` would begin.",
    "uv run --group aws ray *": "It would start machines of Amazon's, which cost money.",
    "uv run python cluster/local/cluster.py *": "tests/cluster/test_local.py starts and stops one.",
    "sbatch *": "It needs Slurm; `python -m tests.slurm` runs the same script under one.",
    "uv run python -m tests.chaos *": "It takes as many minutes as it is given.",
    "uv run python -m tests.hosts": "It needs root and PostgreSQL, and takes a quarter of an hour.",
    "uv run python -m tests.slurm": "It needs root and Slurm, and takes a quarter of an hour.",
    "docker build *": "An image takes minutes and 30 GB; `python -m tests.image` builds and uses one.",
    "docker compose *": "It needs the image; tests/cluster checks its file.",
    "kubectl *": "It needs a cluster of Kubernetes; tests/cluster builds and checks the manifests.",
    "uv run mlflow ui *": "It serves until somebody stops it.",
    f"{TRAIN} * --compute.min-workers *": "It needs eight GPUs.",
    f"{EVALUATE} * --augmented-probe.epochs *": "It takes hours; tests/integration runs it with two epochs.",
    f"{TRAIN} --config jobs/cifar10_conv.yaml *": "Each takes six to twenty minutes, and needs all of CIFAR-10.",
    f"{TRAIN} --data.beton data/cifar10.beton *": "Each takes ten to forty minutes, and needs all of CIFAR-10.",
    "uv run python jobs/prepare_data.py --source.path ../shared/downloads/*": "Its data set is not here.",
    "uv run python jobs/tune_hyperparameters.py --config jobs/studies/paper/*": "It needs GPUs for days or weeks.",
    "uv run python jobs/tune_hyperparameters.py --config *": "It takes an hour, and needs all of CIFAR-10.",
    f"{EVALUATE} *--train data/cifar10*": "Each needs a run that takes minutes, and all of CIFAR-10.",
    "uv run python jobs/prepare_data.py * --output data/worth_*": "They are as those of the sweep above, which run.",
    "uv run python jobs/plan_capacity.py": "The variables that scale down make networks of it that were not measured.",
    "uv run python jobs/plan_capacity.py --plan.images *": "The same.",
    "uv run python -m jobs.studies.worth pack": "It packs what those would make.",
    "uv run python -m jobs.studies.worth run *": "It takes seven minutes of an H200.",
    "uv run python -m tests.gpu": "It needs a GPU; the command before it runs the same checks without one.",
    "uv run python -m tests.gpu.schedules *": "It trains for an hour.",
    "uv run python -m tests.gpu.images *": "It reads images that not every machine has.",
    "uv run python -m tests.benchmarks.*": "Measurements take minutes, and a machine that does nothing else.",
}
"""Shell patterns of whole commands, after the shell has put in variables. What is not run has its options parsed."""

RUN_BY_TESTS: Final[dict[str, str]] = {
    "examples/torchvision_network.py": "tests/tracking/test_encoders.py runs it, as no page trains a ResNet-50.",
}
"""Examples that no command of a page runs."""

SERVERS: Final[dict[str, str]] = {
    "uv run mlflow models serve *": "http://127.0.0.1:5001/ping",
}
"""Commands that serve until they are stopped, and what answers when they are ready: the next command goes on then."""
