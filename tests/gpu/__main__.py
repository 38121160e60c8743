"""Checks of method, step and memory on a GPU, with PyTorch and torchvision alone. docs/gpu.md says what they mean."""

import argparse
import platform
import sys
from pathlib import Path
from typing import Final

import torch
import torchvision

from tests.gpu import BEGAN
from tests.gpu.checks.batch_norm import batch_norm
from tests.gpu.checks.ceilings import ceilings
from tests.gpu.checks.compiled import compiled_step, compiled_steps, compiled_tangent, start_compiling
from tests.gpu.checks.learning import learning
from tests.gpu.checks.memory import memory
from tests.gpu.checks.meta_gradient import meta_gradient
from tests.gpu.checks.one_rank import one_rank
from tests.gpu.checks.passes import passes
from tests.gpu.checks.profile import profile
from tests.gpu.checks.real_images import real_images
from tests.gpu.checks.schedules import schedules
from tests.gpu.checks.small_batch import small_batch
from tests.gpu.checks.synchronisations import synchronisations
from tests.gpu.runner import Check, run_checks, table
from tests.gpu.setting import Setting

# What measures time and memory comes first: from "compiling" on, four processes compile beside the checks.
CHECKS: Final = (
    Check("ceilings", ceilings),
    Check("batch-norm", batch_norm),
    Check("meta-gradient", meta_gradient),
    Check("passes", passes, tuned=True),
    Check("memory", memory, tuned=True),
    Check("small-batch", small_batch, tuned=True),
    Check("profile", profile, tuned=True),
    Check("one-rank", one_rank),
    Check("compiling", start_compiling),
    Check("synchronisations", synchronisations),
    Check("learning", learning),
    Check("real-images", real_images),
    Check("schedules", schedules),
    Check("compiled-tangent", compiled_tangent),
    Check("compiled-step", compiled_step),
    Check("compiled-steps", compiled_steps),
)


def main(arguments: list[str] | None = None) -> int:
    """Run the checks; returns 1 if one found a fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"), help="cpu: what runs without a GPU")
    parser.add_argument("--quick", action="store_true", help="networks and batches of toy size")
    parser.add_argument(
        "--output", type=Path, default=Path("data/gpu_checks"), help="folder of the results and the log"
    )
    parser.add_argument("--seconds", type=float, help="after which no further check begins; default: no limit")
    names = [check.name for check in CHECKS]
    parser.add_argument("--only", nargs="+", choices=names, metavar="CHECK", help=f"some of {', '.join(names)}")
    parser.add_argument("--images", type=Path, help="real images, as `python -m tests.gpu.images` writes them")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch finds no GPU here; --device cpu --quick runs what can run without one")
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "log.txt").unlink(missing_ok=True)
    deadline = None if options.seconds is None else BEGAN + options.seconds
    device = torch.device("cuda", 0) if options.device == "cuda" else torch.device("cpu")
    setting = Setting(device, options.output, options.quick, options.images, deadline)
    machine = _machine(setting)
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    results = run_checks([check for check in CHECKS if check.name in (options.only or names)], setting, machine)
    print(f"\n{table(results)}", flush=True)
    return int(any(result.row.verdict == "FAULT" for result in results))


def _machine(setting: Setting) -> dict[str, str]:
    machine = {"Python": platform.python_version(), "torch": torch.__version__, "torchvision": torchvision.__version__}
    if setting.gpu:
        properties = torch.cuda.get_device_properties(setting.device)
        machine["GPU"] = f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB)"
        machine["cuDNN"] = str(torch.backends.cudnn.version())
    return machine


if __name__ == "__main__":
    sys.exit(main())
