"""Operations that one step dispatches, which a GPU's host must launch, and those that make it wait for the GPU.

Run `uv run python -m tests.benchmarks.dispatched` (a minute). Three ResNet-50s of tiny images: the numbers depend on
the networks alone, not on the machine. `_local_scalar_dense` is a value that the host reads, `nonzero` a shape that
only the values tell: of a GPU's tensors each waits. (The bank looks for collisions in indices on the CPU.)
"""

from collections import Counter
from dataclasses import replace
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from metaug_ray.choices import COLOR_CHANNELS
from metaug_ray.method.algorithm import MetaStep, Minibatch
from tests.gpu.case import VIEWS, Case, make_metaug

CPU = torch.device("cpu")
COUNTED = ("clone", "copy_", "_local_scalar_dense", "nonzero")


class Counting(TorchDispatchMode):
    """Counts operations by name; views cost nothing and are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not func.is_view:
            self.found[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def counted(case: Case, meta: MetaStep) -> Counter[str]:
    """Of the third step: the first ones make optimisers' states."""
    metaug = make_metaug(case, CPU)
    metaug.meta = meta

    def minibatch(seed: int) -> Minibatch:
        generator = torch.Generator().manual_seed(seed)
        images = [torch.randn(case.batch, COLOR_CHANNELS[v], case.size, case.size, generator=generator) for v in VIEWS]
        return Minibatch(images, torch.arange(case.batch) + 10 * seed)

    counting = Counting()
    for number in range(3):
        other = minibatch(number + 5) if meta.schedule == "separate" and case.hidden else None
        if number == 2:
            with counting:
                metaug.step(number, minibatch(number), other)
        else:
            metaug.step(number, minibatch(number), other)
    return counting.found


def main() -> None:
    case = Case(size=32, batch=8, rows=1000, negatives=64, bfloat16=False)
    print("ResNet-50, 3 views\n")
    print(f"| step | operations | {' | '.join(f'`{name}`' for name in COUNTED)} |")
    print(f"|---|---|{'---|' * len(COUNTED)}")
    steps: dict[str, MetaStep | None] = {
        "plain": None,
        "fused": MetaStep(),
        "fused, activations kept": MetaStep(keep_activations=True),
        "separate": MetaStep("separate"),
        "lookahead": MetaStep("lookahead"),
        "lookahead, activations kept": MetaStep("lookahead", keep_activations=True),
        "lookahead, tangents of a quarter": MetaStep("lookahead", share=0.25),
        "lookahead, tangents of a quarter, kept": MetaStep("lookahead", share=0.25, keep_activations=True),
    }
    for name, meta in steps.items():
        kind = case.plain() if meta is None else replace(case, schedule=meta.schedule)
        found = counted(kind, meta or MetaStep())
        cells = [f"{sum(found.values()):,}", *(f"{found[name]:,}" for name in COUNTED)]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
