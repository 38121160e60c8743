"""What a sweep of n short runs takes, beside n runs of the main job, as many at a time.

    uv run python -m tests.benchmarks.sweep --runs 8 --epochs 24

Both are runs of one worker with one CPU, two at a time, on one Ray cluster of two CPUs. The physical limit is what the
runs' own steps take, which the table shows. A run before all, which warms the disk's caches, is left out.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ray

ROOT = Path(__file__).resolve().parents[2]
AT_A_TIME = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=8, help="runs of each kind")
    parser.add_argument("--epochs", type=int, default=24, help="epochs of a run, of 16 steps")
    parser.add_argument("--repeats", type=int, default=1, help="times that both are measured")
    options = parser.parse_args()
    os.environ["RAY_AUTH_MODE"] = "disabled"
    context = ray.init("local", num_cpus=AT_A_TIME, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    address = context.address_info["gcs_address"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = ["--source.kind", "shapes", "--source.count", "2048", "--encoding.preset", "small"]
        _run(["jobs/prepare_data.py", *source, "--output", str(folder / "shapes.beton")], address)
        _direct(folder, address, "warm", 1, 1)
        rows = []
        for number in range(options.repeats):
            direct = _direct(folder, address, f"direct-{number}", options.runs, options.epochs)
            swept = _swept(folder, address, f"sweep-{number}", options.runs, options.epochs)
            with (folder / "runs" / f"sweep-{number}" / "report" / "trials.csv").open() as file:
                runs = list(csv.DictReader(file))
            hours, steps = (sum(float(run[kind]) for run in runs) for kind in ("hours", "step_hours"))
            rows.append((direct, swept, 3600 * hours / AT_A_TIME, 3600 * steps / AT_A_TIME))
            print(f"direct {direct:.0f} s, sweep {swept:.0f} s", flush=True)
    ray.shutdown()
    print(f"\n{options.runs} runs of {options.epochs} epochs, {AT_A_TIME} at a time")
    print(f"{'':34}{'seconds':>10}{'of direct':>12}")
    for label, column in (
        ("direct runs, commands of their own", 0),
        ("the sweep, as one command", 1),
        ("  its runs, from first to last word", 2),
        ("    their steps", 3),
    ):
        values = [row[column] for row in rows]
        ratios = [row[column] / row[0] for row in rows]
        print(f"{label:34}{sum(values) / len(values):10.1f}{sum(ratios) / len(ratios):12.2f}")
    print("the aim for the sweep is at most 1.1 of the direct runs")


def _options(folder: Path, epochs: int) -> list[str]:
    return [
        *("--preset", "demo", "--data.beton", str(folder / "shapes.beton"), "--storage", str(folder / "runs")),
        *("--tracking.uri", f"sqlite:///{folder}/mlflow.db", "--training.epochs", str(epochs)),
        *("--compute.workers", "1", "--compute.cpus-per-worker", "1", "--health.knn.every", "8"),
    ]


def _direct(folder: Path, address: str, name: str, runs: int, epochs: int) -> float:
    """Seconds of so many commands, some at a time."""
    command = ["jobs/imagenet_resnet50.py", *_options(folder, epochs)]
    began = time.monotonic()
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(lambda n: _run([*command, "--name", f"{name}-{n}", "--seed", str(n)], address), range(runs)))
    return time.monotonic() - began


def _swept(folder: Path, address: str, name: str, runs: int, epochs: int) -> float:
    """Seconds of one sweep over so many seeds of one setting."""
    space = '{"method.delta": {"grid": [1e-5]}}'
    command = ["jobs/tune_hyperparameters.py", *_options(folder, epochs), "--name", name, "--space", space]
    began = time.monotonic()
    _run([*command, "--search.seeds", str(runs)], address)
    return time.monotonic() - began


def _run(command: list[str], address: str) -> None:
    environment = os.environ | {"RAY_ADDRESS": address, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
    if ended.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stdout}{ended.stderr}")


if __name__ == "__main__":
    main()
