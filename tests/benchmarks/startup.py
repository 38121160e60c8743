"""What a run takes to its first kNN accuracy, beside what an empty `TorchTrainer` takes to its first report.

    uv run python -m tests.benchmarks.startup --repeats 3

Both are two workers of one CPU on a Ray cluster that each process starts for itself, one after the other; the first
pair, which warms the caches of the disk, is left out. The physical limit is what Ray itself takes: the empty trainer.
"""

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
EMPTY = """
import sys
from pathlib import Path
import ray.train
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

def work(config):
    ray.train.report({"done": 1})
    if ray.train.get_context().get_world_rank() == 0:
        Path(config["reported"]).touch()

folder = sys.argv[1]
ray.init(logging_level="WARNING", log_to_driver=False)
TorchTrainer(
    work,
    train_loop_config={"reported": folder + "/reported"},
    scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 1}),
    run_config=RunConfig(storage_path=folder),
).fit()
"""
KINDS = {
    "driver": lambda line: "imagenet_resnet50.py" in line or "empty.py" in line,
    "two workers": lambda line: "RayTrainWorker" in line,
    "controller": lambda line: "TrainController" in line,
    "other actors": lambda line: line.startswith("ray::") and "Agent" not in line,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs that are measured")
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "empty.py").write_text(EMPTY)
        _run([sys.executable, "jobs/prepare_data.py", *_prepare(folder)])
        measured: dict[str, list[tuple[float, dict[str, float]]]] = {"empty": [], "ours": []}
        for number in range(repeats + 1):
            for kind, measure in (("empty", _empty), ("ours", _ours)):
                seconds, table = measure(folder, number)
                print(f"{kind}: {seconds:.1f} s", flush=True)
                if number:
                    measured[kind].append((seconds, table))
    _report(measured)


def _prepare(folder: Path) -> list[str]:
    options = ["--source.kind", "shapes", "--source.count", "2048", "--encoding.preset", "small"]
    return [*options, "--output", str(folder / "shapes.beton")]


def _run(command: list[str]) -> None:
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)


def _empty(folder: Path, number: int) -> tuple[float, dict[str, float]]:
    place = folder / f"empty-{number}"
    place.mkdir()
    return _until([sys.executable, str(folder / "empty.py"), str(place)], (place / "reported").exists)


def _ours(folder: Path, number: int) -> tuple[float, dict[str, float]]:
    log = folder / f"ours-{number}.log"
    command = [sys.executable, "jobs/imagenet_resnet50.py", "--preset", "demo", "--name", f"ours-{number}"]
    command += ["--data.beton", str(folder / "shapes.beton"), "--storage", str(folder / "runs")]
    command += ["--tracking.uri", f"sqlite:///{folder}/mlflow.db"]
    return _until(command, lambda: log.exists() and "kNN accuracy" in log.read_text(), log)


def _until(command: list[str], reached: Callable[[], bool], log: Path | None = None) -> tuple[float, dict[str, float]]:
    """Seconds from the start of a command until `reached`, and CPU seconds of its processes by kind by then."""
    environment = os.environ | {"RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)}
    with (log or Path(os.devnull)).open("w") as output:
        began = time.monotonic()
        process = psutil.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        while not reached():
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)} ended with {process.returncode}; see {log}")
            time.sleep(0.02)
        seconds = time.monotonic() - began
        table = _processor_time(process)
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    # Ray's processes end a moment later, and would take a part of the next one's time.
    time.sleep(5)
    return seconds, table


def _processor_time(process: psutil.Process) -> dict[str, float]:
    table: dict[str, float] = defaultdict(float)
    for each in [process, *process.children(recursive=True)]:
        try:
            line, times = " ".join(each.cmdline()), each.cpu_times()
        except psutil.Error:
            continue
        kind = next((name for name, belongs in KINDS.items() if belongs(line)), "Ray's own")
        table[kind] += times.user + times.system
    return table


def _report(measured: dict[str, list[tuple[float, dict[str, float]]]]) -> None:
    kinds = [*KINDS, "Ray's own"]
    print(f"\n{'':24}{'empty trainer':>16}{'ours':>16}{'ratio':>8}")

    def row(name: str, pick: Callable[[tuple[float, dict[str, float]]], float]) -> None:
        empty, ours = (statistics.median(map(pick, measured[kind])) for kind in ("empty", "ours"))
        ratio = f"{ours / empty:8.2f}" if empty else f"{'-':>8}"
        print(f"{name:24}{empty:14.1f} s{ours:14.1f} s{ratio}")

    for kind in kinds:
        row(f"CPU: {kind}", lambda one, kind=kind: one[1][kind])  # type: ignore[misc]
    row("CPU in all", lambda one: sum(one[1].values()))
    row("time that passes", lambda one: one[0])
    pairs = [ours[0] / empty[0] for empty, ours in zip(*measured.values(), strict=True)]
    print(f"ratio of each pair: {', '.join(f'{ratio:.2f}' for ratio in pairs)} (the aim is 1.3)")


if __name__ == "__main__":
    main()
