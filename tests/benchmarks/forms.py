"""Time and peak memory of one training step of each form: SimCLR, NNCLR, MetAug on both, and on a memory bank.

Run `uv run python -m tests.benchmarks.forms` (about fifteen minutes on two cores; `--help` for sizes). Each form runs
in a process of its own, built from its preset's settings, and the forms take turns, so that a slow minute of the
machine hits all of them. The part of the support set is the time of its lookups and of its queue, in the same process.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F

from metaug_ray.choices import COLOR_CHANNELS
from metaug_ray.config import PretrainSettings
from metaug_ray.config.presets import PRESETS, PresetName
from metaug_ray.method.algorithm import Minibatch
from metaug_ray.method.targets import NeighbourTargets
from metaug_ray.training.state import TrainingState, build_state

_MAG: Final = {"contrast": "unified", "generators": True}
_IMAGES: Final = 50_000
FORMS: Final[dict[str, tuple[PresetName, dict[str, Any]]]] = {
    "SimCLR": ("imagenet_simclr", {}),
    "MetAug on SimCLR": ("imagenet_simclr", _MAG),
    "NNCLR": ("imagenet_nnclr", {}),
    "MetAug*": ("imagenet_metaug_star", {}),
    "CMC (two views, an encoder each)": ("imagenet_resnet50", {"contrast": "info_nce", "generators": False}),
    "MetAug (two views, an encoder each)": ("imagenet_resnet50", {}),
}


def settings_of(form: str, size: int, batch: int, precision: str) -> PretrainSettings:
    preset, method = FORMS[form]
    settings: dict[str, Any] = json.loads(json.dumps(PRESETS[preset]))
    settings.setdefault("data", {}).update(beton="none.beton", image_size=size)
    settings.setdefault("method", {}).update(method)
    settings.setdefault("training", {}).update(batch_size=batch, precision=precision)
    if preset == "imagenet_resnet50":
        settings["model"] = {"views": ("l", "ab")}
    return PretrainSettings.model_validate(settings)


def minibatch(settings: PretrainSettings, batch: int, device: torch.device) -> Minibatch:
    """Noise, which costs as much as images do."""
    random = torch.Generator().manual_seed(0)
    size = settings.data.image_size
    channels = [COLOR_CHANNELS[view.color] for view in settings.model.parsed_views]
    images = [torch.randn(batch, each, size, size, generator=random).to(device) for each in channels]
    if device.type == "cuda":
        images = [view.to(memory_format=torch.channels_last) for view in images]
    return Minibatch(images, torch.randperm(_IMAGES, generator=random)[:batch])


def support_seconds(state: TrainingState, batch: int, device: torch.device) -> float:
    """Seconds of a step in which the support set is read and written."""
    targets = state.metaug.targets
    if not isinstance(targets, NeighbourTargets):
        return 0.0
    projections = F.normalize(torch.randn(targets.views, batch, targets.feature_size, device=device), dim=-1)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        keys = targets.ask(torch.arange(batch), 0).keys(projections)
        targets.update(keys, projections)
        _wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def measure(form: str, size: int, batch: int, device: torch.device) -> None:
    """Serve the parent: a step's seconds for every line on standard input; in the end peak bytes and the support set's
    seconds."""
    settings = settings_of(form, size, batch, "bfloat16" if device.type == "cuda" else "float32")
    state = build_state(settings, _IMAGES, device)
    # On noise, and without a warm-up, weights would blow up, and what is no number takes its own time.
    state.set_learning_rates(1e-6)
    given = minibatch(settings, batch, device)
    before = _resident_bytes()
    for number, _ in enumerate(sys.stdin):
        start = time.perf_counter()
        state.metaug.step(number, given)
        _wait(device)
        print(time.perf_counter() - start, flush=True)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    print(json.dumps({"peak": peak, "support": support_seconds(state, batch, device)}), flush=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=224, help="image size, px")
    parser.add_argument("--batch", type=int, default=16, help="images of a step")
    parser.add_argument("--steps", type=int, default=3, help="steps measured, after one to warm up")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--form", choices=list(FORMS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.form:
        measure(args.form, args.size, args.batch, torch.device(args.device))
        return
    print(f"resnet50, {args.size} px, {args.batch} images, {args.device}, {torch.get_num_threads()} threads\n")
    rows = compare(args)
    plain = rows["SimCLR"]
    print("| form | s | time / SimCLR | peak MB | memory / SimCLR | support set's share of the step |")
    print("|---|---|---|---|---|---|")
    for form, (seconds, seen) in rows.items():
        share = f"{seen['support'] / seconds:.2%}" if seen["support"] else "-"
        print(
            f"| {form} | {seconds:.2f} | {seconds / plain[0]:.2f} | {seen['peak'] / 1e6:.0f} "
            f"| {seen['peak'] / plain[1]['peak']:.2f} | {share} |"
        )


def compare(args: argparse.Namespace) -> dict[str, tuple[float, dict[str, float]]]:
    """Median seconds of a step of each form, with its memory and the support set's seconds."""
    processes = {}
    for form in FORMS:
        command = [sys.executable, "-m", "tests.benchmarks.forms", "--form", form, "--size", str(args.size)]
        command += ["--batch", str(args.batch), "--device", args.device]
        processes[form] = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    seconds: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(1 + args.steps):
        for form, process in processes.items():
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            seconds[form].append(float(process.stdout.readline()))
    rows = {}
    for form, process in processes.items():
        output, _ = process.communicate()
        rows[form] = (statistics.median(seconds[form][1:]), json.loads(output.splitlines()[-1]))
    return rows


if __name__ == "__main__":
    main()
