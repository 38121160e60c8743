"""What takes long to compile, in a process of its own: `python -m tests.gpu.compiling tangent|step`.

It compiles, answers on standard output, waits for a line on standard input, measures, and answers again. So it may
compile while other checks run, and measures alone.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.func import functional_call

from metaug_ray.method.encoders import build_encoder
from metaug_ray.method.precision import autocast
from metaug_ray.method.tangents import FusedTangents
from tests.gpu.case import make_images, make_metaug, make_minibatch
from tests.gpu.child import ANSWER
from tests.gpu.setting import Setting
from tests.gpu.timing import median_seconds, synchronize
from tests.gpu.trace import trace

Answers = Iterator[dict[str, float]]
CALLS = 20
"""Calls with other values and the same shapes, which must compile nothing more."""


def tangent(setting: Setting, backend: str) -> Answers:
    """The tangent of one encoder's representations, by `torch.func.jvp` within `torch.compile`."""
    case, device = setting.sizes.large, setting.device
    torch.manual_seed(0)
    with device:
        encoder = build_encoder(case.encoder, 3, width=case.width, small_images=case.small_images)
    encoder = encoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    functional_encoder = _without_statistics(encoder)
    images = make_images(case, device, case.batch).float().div_(127.5).sub_(1.0)
    theta = {name: parameter.detach() for name, parameter in encoder.named_parameters()}
    directions = [{name: p.abs().mean() * torch.randn_like(p) for name, p in theta.items()} for _ in range(2)]

    def eager(direction: dict[str, Tensor], dtype: torch.dtype | None = torch.bfloat16) -> Tensor:
        """As `metaug_ray.method.meta_gradient` has it."""
        with torch.no_grad(), forward_ad.dual_level(), FusedTangents(), autocast(device, dtype):
            duals = {name: forward_ad.make_dual(theta[name], its) for name, its in direction.items()}
            zdot: Tensor = forward_ad.unpack_dual(functional_call(encoder, duals, (images,))).tangent
        return zdot

    def narrow(parameters: dict[str, Tensor]) -> Tensor:
        # What autocast would do: Dynamo does not see it within `jvp`.
        cast = {name: p.bfloat16() if p.ndim > 1 else p for name, p in parameters.items()}
        representations: Tensor = functional_call(functional_encoder, cast, (images.bfloat16(),))
        return representations

    def functional(direction: dict[str, Tensor]) -> Tensor:
        with torch.no_grad():
            zdot: Tensor = torch.func.jvp(narrow, (theta,), (direction,))[1]
        return zdot

    compiled = torch.compile(functional, backend=backend)
    began = time.monotonic()
    ours = compiled(directions[0])
    synchronize(device)
    seconds = time.monotonic() - began
    exact = eager(directions[0], None)
    graphs = counters["stats"]["unique_graphs"]
    yield {
        "compiling": seconds,
        "error": _error(ours, exact),
        "eager_error": _error(eager(directions[0]), exact),
        "difference": _error(ours, eager(directions[0])),
        "graphs": graphs,
    }
    for call in range(CALLS if setting.gpu else 2):
        compiled(directions[call % 2])
    yield {
        "recompilations": counters["stats"]["unique_graphs"] - graphs,
        "compiled": median_seconds(lambda: compiled(directions[0]), device, setting.sizes.repeats),
        "eager": median_seconds(lambda: eager(directions[0]), device, setting.sizes.repeats),
    }


def step(setting: Setting, backend: str) -> Answers:
    """A fused step of few images with a compiled encoder, as `compute.compile` has it."""
    case = replace(setting.sizes.large, batch=setting.sizes.small_batch)
    metaug = make_metaug(case, setting.device, wrap=lambda networks: torch.compile(networks, backend=backend))  # type: ignore[arg-type, return-value]
    minibatch = make_minibatch(case, setting.device)
    began = time.monotonic()
    metaug.step(0, minibatch)
    synchronize(setting.device)
    yield {"compiling": time.monotonic() - began}
    seconds = median_seconds(lambda: metaug.step(0, minibatch), setting.device, setting.sizes.repeats)
    measured = {"seconds": seconds}
    if setting.gpu:
        seen = trace(lambda: metaug.step(0, minibatch))
        measured |= {"kernels": seen.kernels, "busy": seen.busy / seconds}
    yield measured


def _without_statistics(encoder: nn.Module) -> nn.Module:
    """A copy that `jvp` takes, as it refuses what a function writes besides its result, with batch norm in float32.

    The tangent does not depend on running statistics. Without the casts it would leave batch norm in float32 within a
    bfloat16 feature, which only the eager convolution takes.
    """
    copied = deepcopy(encoder)
    for norm in copied.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.running_mean = norm.running_var = norm.num_batches_tracked = None
            norm.register_forward_pre_hook(lambda _, arguments: arguments[0].float())
            norm.register_forward_hook(lambda _, arguments, features: features.bfloat16())
    return copied


def _error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact.double()).norm() / exact.double().norm())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("tangent", "step"))
    parser.add_argument("--device", required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    setting = Setting(torch.device(options.device), Path.cwd(), options.quick)
    # On a CPU, Inductor takes longer than all checks together: there only the tracing is tried.
    backend = "inductor" if setting.gpu else "aot_eager"
    # As in training; `tests.gpu.runner` does so for what is eager.
    torch.backends.cudnn.benchmark = True
    for answer in {"tangent": tangent, "step": step}[options.name](setting, backend):
        print(ANSWER + json.dumps(answer), flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main()
