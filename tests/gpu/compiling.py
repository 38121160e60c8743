"""What takes long to compile, in a process of its own: `python -m tests.gpu.compiling NAME`.

It compiles, answers on standard output, waits for a line on standard input, measures, and answers again. So it may
compile while other checks run, and measures alone.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch._dynamo.utils import counters

from metaug_ray.method.algorithm import MetAug, Minibatch
from metaug_ray.method.meta_gradient import _forward_mode, trained
from tests.gpu.case import make_bank, make_metaug, make_minibatch, make_model
from tests.gpu.child import ANSWER
from tests.gpu.setting import Setting
from tests.gpu.timing import median_seconds, synchronize
from tests.gpu.trace import trace

Answers = Iterator[dict[str, float]]
CALLS = 20
"""Calls with other values and the same shapes, which must compile nothing more."""


def tangent(setting: Setting, backend: str) -> Answers:
    """The tangent of the features of all views, by dual numbers and compiled."""
    case, device = setting.sizes.large, setting.device
    model = make_model(case, device, backend=backend)
    eager, exact = replace(model, compiled_tangents=None), replace(model, compiled_tangents=None, autocast=None)
    images = make_minibatch(case, device).images
    theta = {name: parameter.detach() for name, parameter in trained(model.eager_encoder).items()}
    directions = [{name: p.abs().mean() * torch.randn_like(p) for name, p in theta.items()} for _ in range(2)]

    began = time.monotonic()
    ours = _forward_mode(model, images, theta, directions[0])
    synchronize(device)
    seconds = time.monotonic() - began
    graphs = counters["stats"]["unique_graphs"]
    with_dual_numbers, wide = (_forward_mode(each, images, theta, directions[0]) for each in (eager, exact))
    yield {
        "compiling": seconds,
        "error": _error(ours, wide),
        "eager_error": _error(with_dual_numbers, wide),
        "difference": _error(ours, with_dual_numbers),
        "graphs": graphs,
    }
    for call in range(CALLS if setting.gpu else 2):
        _forward_mode(model, images, theta, directions[call % 2])
    yield {"recompilations": counters["stats"]["unique_graphs"] - graphs} | {
        name: median_seconds(
            lambda its=its: _forward_mode(its, images, theta, directions[0]), device, setting.sizes.repeats
        )
        for name, its in {"compiled": model, "eager": eager}.items()
    }


def step(setting: Setting, backend: str) -> Answers:
    """A fused step of few images with compiled encoders and tangents, as `compute.compile` has it."""
    case = replace(setting.sizes.large, batch=setting.sizes.small_batch)
    metaug = make_metaug(case, setting.device, model=make_model(case, setting.device, backend=backend))
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


def steps(setting: Setting, backend: str) -> Answers:
    """Steps of some kinds, as `checks/passes.py` measures them without compilation."""
    case, device = setting.sizes.large, setting.device
    model = make_model(case, device, backend=backend)
    bank, minibatch = make_bank(case, device), make_minibatch(case, device)
    kinds = {
        "plain": make_metaug(case, device, bank=bank, model=replace(model, generators=None)),
        "fused": make_metaug(case, device, bank=bank, model=model),
        "lookahead": make_metaug(replace(case, schedule="lookahead"), device, bank=bank, model=model),
    }
    yield from _timed(kinds, minibatch, setting)


def quarter(setting: Setting, backend: str) -> Answers:
    """A lookahead step with tangents of a quarter of the images: another shape, which is compiled for itself."""
    case = replace(setting.sizes.large, schedule="lookahead", share=0.25)
    metaug = make_metaug(case, setting.device, model=make_model(case, setting.device, backend=backend))
    yield from _timed({"lookahead, a quarter": metaug}, make_minibatch(case, setting.device), setting)


def _timed(kinds: dict[str, MetAug], minibatch: Minibatch, setting: Setting) -> Answers:
    began = time.monotonic()
    for name, metaug in kinds.items():
        # The second one of `lookahead` has a meta step.
        for _ in range(2):
            metaug.step(0, minibatch)
        synchronize(setting.device)
        print(f"{name} compiled after {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    yield {"compiling": time.monotonic() - began, "graphs": counters["stats"]["unique_graphs"]}
    yield {
        name: median_seconds(lambda its=its: its.step(0, minibatch), setting.device, setting.sizes.repeats)
        for name, its in kinds.items()
    }


def _error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact.double()).norm() / exact.double().norm())


MEASURED = {"tangent": tangent, "step": step, "steps": steps, "quarter": quarter}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=MEASURED)
    parser.add_argument("--device", required=True)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    setting = Setting(torch.device(options.device), Path.cwd(), options.quick)
    # On a CPU, Inductor takes longer than all checks together: there only the tracing is tried.
    backend = "inductor" if setting.gpu else "aot_eager"
    # As in training; `tests.gpu.runner` does so for what is eager.
    torch.backends.cudnn.benchmark = True
    for answer in MEASURED[options.name](setting, backend):
        print(ANSWER + json.dumps(answer), flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main()
