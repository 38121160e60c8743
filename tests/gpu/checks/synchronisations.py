"""Where in a step the host waits for the GPU."""

import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import metaug_ray
from tests.gpu.case import Case, make_metaug, make_minibatch
from tests.gpu.setting import Row, Setting, held, skipped

# As modules name it, links unresolved.
PACKAGE = Path(metaug_ray.__file__).parent
STEPS = 3


def synchronisations(setting: Setting) -> Iterator[Row]:
    if not setting.gpu:
        yield skipped("waits in a step", "there is no GPU to wait for")
        return
    fused = setting.sizes.small
    kinds = {
        "fused": fused,
        "fused, activations kept": replace(fused, keep_activations=True),
        "lookahead": replace(fused, schedule="lookahead"),
        "lookahead, a quarter, kept": replace(fused, schedule="lookahead", share=0.25, keep_activations=True),
    }
    for name, case in kinds.items():
        places = _waits(case, setting)
        each = sum(places.values()) / STEPS
        measured = f"{each:.1f} a step (bar 1), at {len(places)} places"
        yield held(f"waits in a step, {name}", measured, each <= 1, waits=each)
        for place, times in places.most_common():
            yield Row(f"{name}: {place}", f"{times / STEPS:.1f} a step", numbers={"waits": times / STEPS})


def _waits(case: Case, setting: Setting) -> Counter[str]:
    """How often the host waited in all steps, by place."""
    metaug = make_metaug(case, setting.device)
    minibatch = make_minibatch(case, setting.device)
    for number in range(3):
        metaug.step(number, minibatch)
    torch.cuda.synchronize()
    places: Counter[str] = Counter()

    def count(message: Warning | str, *_: Any) -> None:
        if "called a synchronizing" in str(message):
            places[_place()] += 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = count  # type: ignore[assignment]
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for number in range(STEPS):
                metaug.step(number, minibatch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return places


def _place() -> str:
    """The innermost line of the package on the stack."""
    for frame in reversed(traceback.extract_stack()):
        if Path(frame.filename).is_relative_to(PACKAGE):
            return f"{Path(frame.filename).relative_to(PACKAGE.parent)}:{frame.lineno}"
    return "outside the package"
